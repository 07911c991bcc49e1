"""How every part that opens its own connections gets to a database.

The data plane and the coordinator cannot share the application's pool: writers that wait at the
fence hold it. What they connect by is remembered as it was given and read again at each connect:
a password file or a token may have changed since, and another host may be the primary.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

import asyncpg

from eventsource.dsn.reading import parse, read
from eventsource.dsn.redaction import redact
from eventsource.dsn.spelling import pairs_of, uri_of
from eventsource.dsn.value import Dsn
from eventsource.errors import ConnectionDetailsError, CredentialsError
from eventsource.opening import open_connection

if TYPE_CHECKING:
    from asyncpg.pool import Pool, PoolConnectionProxy

__all__ = [
    "AnyConnection",
    "ConnectionParameters",
    "Executor",
    "Secret",
    "TableAddress",
    "address_of",
    "both",
    "brief",
    "connect",
    "connection_parameters",
    "create_pool",
    "one_of",
    "redact",
    "transaction",
]

A = TypeVar("A")
B = TypeVar("B")

AnyConnection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
)
"""A connection of its own, or one that a pool lent."""

Secret: TypeAlias = "str | Callable[[], str | Awaitable[str]]"
"""A text, or a function that returns it or awaits it: asked at each connect."""


@dataclass(frozen=True, slots=True)
class ConnectionParameters:
    """Where a database is and who connects.

    Attributes:
        dsn: a URI or ``keyword=value``, with or without the password, or a function of it.
        password: goes before the one of ``dsn``.
        settings: of the sessions, before those of ``dsn``.
    """

    dsn: Secret
    password: Secret | None = None
    settings: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"ConnectionParameters({self})"

    def __str__(self) -> str:
        """In words, without a password."""
        if callable(self.dsn):
            return "a function gives the DSN"
        try:
            return str(parse(self.dsn))
        except ConnectionDetailsError:
            # Not shown: what is wrong may be where the password begins.
            return "a DSN that cannot be read"

    async def resolve(self) -> Dsn:
        """Read it now, for a connection that is opened now; at a primary, as all of ours.

        Raises:
            ConnectionDetailsError: it cannot be read, or asks for what cannot be kept.
            CredentialsError: a function of it failed.
        """
        read_now = parse(await _ask(self.dsn, "dsn"))
        if self.password is not None:
            read_now = replace(read_now, password=await _ask(self.password, "password"))
        if self.settings:
            settings = {**dict(read_now.settings), **dict(self.settings)}
            read_now = replace(read_now, settings=tuple(settings.items()))
        return read_now.for_writing()

    async def uri(self) -> str:
        """As the data plane and libpq's programs take it; the password is in it."""
        return (await self.resolve()).uri()


async def _ask(secret: Secret, what: str) -> str:
    if isinstance(secret, str):
        return secret
    try:
        answer = secret()
        text = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        # Its text is not ours to show: it may quote what it was about.
        raise CredentialsError(
            f"the function given as {what}= failed with {type(error).__name__}; see to it that it"
            " returns a text"
        ) from error
    if not isinstance(text, str):
        raise CredentialsError(
            f"the function given as {what}= returned {type(text).__name__}; see to it that it"
            " returns a text"
        )
    return text


def brief(error: BaseException) -> str:
    """One line about an error for a log: no password, and no DETAIL, which can quote rows."""
    text = str(error)
    if isinstance(error, asyncpg.PostgresError) and error.args:
        text = str(error.args[0])
    text = " ".join(redact(text).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def in_a_sentence(error: BaseException) -> str:
    """What an error says, without a password, and DETAIL and HINT not in lines of their own."""
    return " ".join(redact(str(error)).split()).rstrip(".")


async def connection_parameters(
    pool: Pool[Any] | None,
    dsn: Secret | None = None,
    password: Secret | None = None,
    *,
    lent: Executor | None = None,
) -> ConnectionParameters:
    """How to reach the database of ``pool``, or the one that ``dsn`` names.

    Of a pool a live connection is looked at: what it says is true, whatever the pool was given. All
    hosts of the pool's are kept if it is connected to one of them, and a function as its password.

    Args:
        lent: a connection of the pool, where one is at hand.

    Raises:
        ConnectionDetailsError: the pool uses something that a connection string cannot carry.
        OSError, asyncpg.PostgresError: the pool's database cannot be reached.
    """
    if dsn is not None:
        if isinstance(dsn, str):
            parse(dsn).for_writing()  # what is wrong with it is found before anything is asked
        return ConnectionParameters(dsn, password)
    if pool is None:
        raise ConnectionDetailsError("there is neither a pool nor a dsn: pass dsn=")
    if isinstance(ours := getattr(pool, "_connect", None), _Connector):
        return ours.parameters if password is None else replace(ours.parameters, password=password)
    pairs, function = pairs_of_pool(pool)
    async with one_of(lent or pool) as pooled:
        _correct(pairs, pooled, function)
    return ConnectionParameters(uri_of(pairs), function if password is None else password)


def pairs_of_pool(pool: Pool[Any]) -> tuple[dict[str, str], Secret | None]:
    """libpq's parameters of what a pool was given, and its password where that is a function."""
    arguments: list[Any] = list(getattr(pool, "_connect_args", ()))
    options: dict[str, Any] = dict(getattr(pool, "_connect_kwargs", {}))
    text = arguments[0] if arguments and isinstance(arguments[0], str) else options.get("dsn")
    pairs = pairs_of(text) if text else {}
    if options.get("host"):
        pairs.pop("port", None)
    for name, of_libpq in {"database": "dbname", "ssl": "sslmode"}.items():
        options.setdefault(of_libpq, options.pop(name, None))
    if not isinstance(options["sslmode"], (str, bool, int, type(None))) or (
        options["sslmode"] is True
    ):
        raise ConnectionDetailsError(
            "the pool was given an ssl context, which a connection string cannot carry: pass dsn="
            " with sslmode, sslrootcert, sslcert and sslkey"
        )
    if options["sslmode"] is False:
        options["sslmode"] = "disable"
    function = options.pop("password") if callable(options.get("password")) else None
    for name in _OF_A_POOL:
        value = options.get(name)
        if isinstance(value, (list, tuple)):
            value = ",".join(map(str, value))
        if value not in (None, ""):
            pairs[name] = (
                getattr(value, "name", str(value)).replace("_", "-")
                if (name in ("sslmode", "target_session_attrs"))
                else str(value)
            )
    if options.get("direct_tls"):
        pairs["sslnegotiation"] = "direct"
    pairs.update(options.get("server_settings") or {})
    pairs.pop("application_name", None)
    return pairs, function


_OF_A_POOL = (
    "host", "port", "user", "password", "passfile", "dbname", "sslmode", "service", "servicefile",
    "target_session_attrs", "krbsrvname",
)  # fmt: skip


def _correct(pairs: dict[str, str], connection: Any, function: Secret | None) -> None:
    """Put right what the live connection knows better; the driver has no public name for it."""
    try:
        known, address = connection._params, connection._addr
        password, mode = known.password, known.sslmode
        pairs.update(user=known.user, dbname=known.database)
    except AttributeError as error:
        raise ConnectionDetailsError(
            "the pool's connections do not show how they were made: pass dsn="
        ) from error
    # A service of the environment is nothing to asyncpg, so it was none to this connection.
    environment = {name: text for name, text in os.environ.items() if name != "PGSERVICE"}
    if not isinstance(address, str):
        pairs["sslmode"] = mode.name.replace("_", "-")
    as_given = read(pairs, environment)
    if isinstance(address, str):
        host, _, port = address.rpartition("/.s.PGSQL.")
    else:
        host, port = address[0], str(address[1])
    if (host, port) not in [(each.name, str(each.port)) for each in as_given.hosts]:
        pairs.update(host=host, port=port)
        pairs.pop("hostaddr", None)
    elif "host" not in pairs and "service" not in pairs:
        pairs.update(
            host=",".join(each.name for each in as_given.hosts),
            port=",".join(str(each.port) for each in as_given.hosts),
        )
    # One that came from a file or the environment is left to be read again: it may be renewed.
    if function is None and not callable(password) and password != as_given.password:
        pairs["password"] = password or ""


async def connect(
    params: ConnectionParameters,
    *,
    application_name: str,
    server_settings: Mapping[str, str] | None = None,
    timeout: float | None = None,
    command_timeout: float | None = None,
) -> asyncpg.Connection[asyncpg.Record]:
    """A dedicated connection outside every pool; the caller closes it.

    Args:
        server_settings: settings of the session, such as ``lock_timeout``.
        timeout: seconds until an unreachable host is an error; by default as the DSN says, or 10.
        command_timeout: seconds until a statement without an answer is an error; None is never.
    """
    with _to(params):
        return await open_connection(
            await params.resolve(),
            server_settings={**(server_settings or {}), "application_name": application_name},
            timeout=timeout,
            command_timeout=command_timeout,
        )


@contextmanager
def _to(parameters: ConnectionParameters) -> Iterator[None]:
    """An error within the block says where the connection was to lead: servers do not."""
    try:
        yield
    except Exception as error:
        error.address = parameters  # type: ignore[attr-defined]
        raise


def address_of(error: BaseException) -> ConnectionParameters | None:
    """Where the connection was to lead that could not be opened; None of other errors."""
    found = getattr(error, "address", None)
    return found if isinstance(found, ConnectionParameters) else None


@dataclass(frozen=True, slots=True)
class _Connector:
    """What a pool of ours opens its connections with, in the place of ``asyncpg.connect``."""

    parameters: ConnectionParameters

    async def __call__(self, *_: object, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        options.pop("dsn", None)
        with _to(self.parameters):
            return await open_connection(await self.parameters.resolve(), **options)


def create_pool(parameters: ConnectionParameters, **options: Any) -> Pool[asyncpg.Record]:
    """A pool whose every connection is opened as :func:`connect` does; await it, as asyncpg's."""
    return asyncpg.create_pool(connect=_Connector(parameters), **options)


def parameters_of_pool(pool: Pool[Any]) -> ConnectionParameters | None:
    """What a pool of ours connects by; None for every other pool."""
    connector = getattr(pool, "_connect", None)
    return connector.parameters if isinstance(connector, _Connector) else None


class Executor(Protocol):
    """What an asyncpg pool and an asyncpg connection have in common."""

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> list[Any]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *args: object) -> Any:
        """The first row, None without one."""
        ...

    async def fetchval(self, query: str, *args: object, timeout: float | None = None) -> Any:
        """The first value of the first row, None without one."""
        ...

    async def execute(self, query: str, *args: object) -> str:
        """The tag of the command that was run."""
        ...


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
        # One that a pool lent has the role's default.
        inside = connection.is_in_transaction()
        async with connection.transaction(isolation=None if inside else "read_committed"):
            yield connection


async def both(first: Awaitable[A], second: Awaitable[B]) -> tuple[A, B]:
    """Await two things of different connections at the same time.

    Both are waited for, also where one fails: a statement that went on would keep its connection
    busy. The first one's error is raised before the second one's.
    """
    one, other = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(other, BaseException):
        raise other
    return one, other


@asynccontextmanager
async def one_of(executor: Executor) -> AsyncIterator[Executor]:
    """One connection for statements that follow each other: a pool resets each that it gets back.

    Nothing in the block may ask the same pool for another one: it may have no more than this.
    """
    if isinstance(executor, asyncpg.Pool):
        async with executor.acquire() as pooled:
            yield pooled
    else:
        yield executor


@dataclass(frozen=True, slots=True)
class TableAddress:
    """A table and how to reach it; the connection string is kept out of `repr`."""

    dsn: Secret = field(repr=False)
    schema: str
    table: str
    password: Secret | None = field(default=None, repr=False)

    @property
    def parameters(self) -> ConnectionParameters:
        """How to reach the table's database."""
        return ConnectionParameters(self.dsn, self.password)

    async def resolved(self) -> TableAddress:
        """The same with a URI that holds the password of now: what the data plane is given."""
        return TableAddress(await self.parameters.uri(), self.schema, self.table)
