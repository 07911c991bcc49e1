"""One connection string for every part that opens its own connections, and such connections.

The data plane and the coordinator cannot share the application's pool: writers that wait at the
fence hold it. They connect with a URI in libpq's form, which asyncpg and the data plane both read.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import asyncpg

from eventsource.errors import ConnectionDetailsError

if TYPE_CHECKING:
    from asyncpg.pool import Pool, PoolConnectionProxy

AnyConnection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
)
"""A connection of its own, or one that a pool lent."""

_TLS_FILES = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}
# Seconds, a count, and milliseconds; not every system has every one.
_KEEPALIVE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,
}
# Up to the last "@" of the word: a password that was not percent-encoded may hold one.
_URI_PASSWORD = re.compile(r"(postgres(?:ql)?://[^:/?#@\s]*:)[^\s'\"]*(?=@)")
_NAMED_PASSWORD = re.compile(
    r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ConnectionParameters:
    """Where a database is and who connects; ``dsn`` is a libpq URI with the password in it."""

    dsn: str

    def __repr__(self) -> str:
        return f"ConnectionParameters(dsn={redact(self.dsn)!r})"

    __str__ = __repr__


def redact(text: str) -> str:
    """``text`` with the password of every connection string in it replaced by ``***``."""
    return _NAMED_PASSWORD.sub(r"\1***", _URI_PASSWORD.sub(r"\1***", text))


async def connection_parameters(
    pool: Pool[Any] | None, dsn: str | None = None
) -> ConnectionParameters:
    """How to reach the database of ``pool``, or the one that ``dsn`` names.

    Both are read from a live connection, so what the driver found elsewhere (password file,
    service file, environment, the host of several that answered) is in the result.

    Raises:
        ConnectionDetailsError: the connection uses something that a URI cannot carry.
        OSError, asyncpg.PostgresError: the database cannot be reached.
    """
    if dsn is not None:
        connection = await asyncpg.connect(dsn)
        try:
            return _read(connection, dsn, None)
        finally:
            await connection.close()
    if pool is None:
        raise ConnectionDetailsError("there is neither a pool nor a dsn: pass dsn=")
    arguments: list[Any] = list(getattr(pool, "_connect_args", ()))
    options: dict[str, Any] = dict(getattr(pool, "_connect_kwargs", {}))
    pool_dsn = arguments[0] if arguments and isinstance(arguments[0], str) else options.get("dsn")
    async with pool.acquire() as pooled:
        return _read(pooled, pool_dsn, options.get("ssl"))


async def connect(
    params: ConnectionParameters,
    *,
    application_name: str,
    server_settings: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    command_timeout: float | None = None,
) -> asyncpg.Connection[asyncpg.Record]:
    """A dedicated connection outside every pool; the caller closes it.

    Args:
        server_settings: settings of the session, such as ``lock_timeout``.
        timeout: seconds until an unreachable server is an error.
        command_timeout: seconds until a statement without an answer is an error; None is never.
    """
    settings = {**(server_settings or {}), "application_name": application_name}
    connection = await asyncpg.connect(
        params.dsn, server_settings=settings, timeout=timeout, command_timeout=command_timeout
    )
    _notice_a_lost_peer(connection)
    return connection


def _notice_a_lost_peer(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Have the operating system end a connection whose other end is gone without a word.

    The same times as the data plane's: half a minute, not the system's two hours.
    """
    transport = getattr(connection, "_transport", None)
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is None or connected.family == getattr(socket, "AF_UNIX", None):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def build_dsn(
    *,
    address: tuple[str, int] | str,
    user: str,
    password: str | None,
    database: str,
    parameters: Mapping[str, str] | None = None,
) -> str:
    """A libpq URI. ``address`` is (host, port), or the path of a unix socket file."""
    query = dict(parameters or {})
    credentials = quote(user, safe="")
    if password:
        credentials += ":" + quote(password, safe="")
    if isinstance(address, str):
        directory, _, port = address.rpartition("/.s.PGSQL.")
        host = ""
        query = {"host": directory, "port": port, **query}
    else:
        name = f"[{address[0]}]" if ":" in address[0] else quote(address[0], safe="")
        host = f"{name}:{address[1]}"
    text = f"postgresql://{credentials}@{host}/{quote(database, safe='')}"
    # Not quote_plus: libpq and the data plane read "+" as a plus sign.
    return text + ("?" + urlencode(query, quote_via=quote, safe="") if query else "")


def _read(connection: Any, dsn: str | None, ssl_argument: object) -> ConnectionParameters:
    """The URI of a live asyncpg connection; the driver has no public name for these values."""
    try:
        known, address = connection._params, connection._addr
        password, mode = known.password, known.sslmode
    except AttributeError as error:
        raise ConnectionDetailsError(
            "the pool's connections do not show how they were made: pass dsn="
        ) from error
    if callable(password):
        raise ConnectionDetailsError("the pool's password is a function: pass dsn=")
    if ssl_argument is True or (ssl_argument is not None and hasattr(ssl_argument, "wrap_socket")):
        raise ConnectionDetailsError(
            "the pool was given an ssl context, which a connection string cannot carry: pass dsn= "
            "with sslmode, sslrootcert, sslcert and sslkey"
        )
    parameters: dict[str, str] = {}
    if not isinstance(address, str):
        parameters["sslmode"] = mode.name.replace("_", "-")
        if parameters["sslmode"] != "disable":
            parameters.update(_tls_files(dsn))
            if str(getattr(known, "ssl_negotiation", "")) == "direct":
                parameters["sslnegotiation"] = "direct"
    settings = {k: v for k, v in (known.server_settings or {}).items() if k != "application_name"}
    if settings:
        parameters["options"] = _startup_options(settings)
    return ConnectionParameters(
        build_dsn(
            address=address,
            user=known.user,
            password=password,
            database=known.database,
            parameters=parameters,
        )
    )


def _tls_files(dsn: str | None) -> dict[str, str]:
    """Certificate files of the pool's own connection string, or of the environment."""
    given = dict(parse_qsl(urlsplit(dsn).query)) if dsn else {}
    if "service" in given or "PGSERVICE" in os.environ:
        raise ConnectionDetailsError(
            "the pool takes its TLS settings from a service file: pass dsn= with sslmode, "
            "sslrootcert, sslcert and sslkey"
        )
    if given.get("sslpassword"):
        raise ConnectionDetailsError("an encrypted sslkey is not supported: pass dsn= without it")
    found = {name: given.get(name) or os.environ.get(env) for name, env in _TLS_FILES.items()}
    return {name: path for name, path in found.items() if path}


def _startup_options(settings: Mapping[str, str]) -> str:
    """Session settings in the form of the ``options`` startup parameter."""
    words = [settings["options"]] if settings.get("options") else []
    for name, value in settings.items():
        if name != "options":
            escaped = re.sub(r"([\\\s])", r"\\\1", value)
            words.append(f"-c {name}={escaped}")
    return " ".join(words)


class Executor(Protocol):
    """What an asyncpg pool and an asyncpg connection have in common."""

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> list[Any]: ...
    async def fetchrow(self, query: str, *args: object) -> Any: ...
    async def fetchval(self, query: str, *args: object) -> Any: ...
    async def execute(self, query: str, *args: object) -> str: ...


@asynccontextmanager
async def transaction(executor: Executor) -> AsyncIterator[Executor]:
    """A connection inside a transaction, from a pool or a connection.

    Whatever the role's default is, each of its statements sees what is committed.
    """
    if isinstance(executor, asyncpg.Pool):
        async with executor.acquire() as pooled, pooled.transaction(isolation="read_committed"):
            yield pooled
    else:
        connection = cast("asyncpg.Connection[Any]", executor)
        async with connection.transaction():
            yield connection


@dataclass(frozen=True, slots=True)
class TableAddress:
    """A table and how to reach it. `dsn` is a libpq URI with its password, kept out of `repr`."""

    dsn: str = field(repr=False)
    schema: str
    table: str

    @property
    def parameters(self) -> ConnectionParameters:
        """How to reach the table's database."""
        return ConnectionParameters(self.dsn)
