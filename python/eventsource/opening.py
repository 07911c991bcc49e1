"""Opening asyncpg connections as a connection string says, on the first host that is right."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from eventsource.dsn.tls import context
from eventsource.dsn.value import Dsn, Host, Keepalive

#: After these libpq asks the next host: nobody is there, or it is not the time or the server.
_NEXT_HOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TargetServerAttributeNotMatched,
)


async def open_connection(
    dsn: Dsn, *, server_settings: Mapping[str, str] | None = None,
    timeout: float | None = None, **options: Any,
) -> asyncpg.Connection[asyncpg.Record]:  # fmt: skip
    """Ask one host after the other, each for the whole time that the string allows.

    asyncpg gets the parts and never the string: no error of its can quote a piece of a password,
    and nothing of the environment gets in that was not read with the string.

    Args:
        timeout: seconds for one host, if not those of the string.
        options: more of ``asyncpg.connect``'s.
    """
    settings = {**dict(dsn.settings), **(server_settings or {})}
    if dsn.application_name:
        settings.setdefault("application_name", dsn.application_name)
    hosts = list(dsn.hosts)
    if dsn.in_any_order:
        random.shuffle(hosts)
    for number, host in enumerate(hosts, 1):
        try:
            connection = await _open_one(
                dsn, host, server_settings=settings, timeout=timeout or dsn.connect_timeout,
                **options,
            )  # fmt: skip
        except _NEXT_HOST:
            if number == len(hosts):
                raise
            continue
        _notice_a_lost_peer(connection, dsn.keepalive)
        return connection
    raise AssertionError("a DSN has a host")


async def _open_one(dsn: Dsn, host: Host, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
    """Try what libpq tries, in its order: `prefer` falls back to plain text, `allow` to TLS."""
    mode = "disable" if host.is_socket else dsn.tls.mode
    encrypted = None if mode == "disable" else context(dsn.tls, host)
    attempts: list[ssl.SSLContext | None] = [encrypted]
    if mode in ("allow", "prefer"):
        attempts = [None, encrypted] if mode == "allow" else [encrypted, None]

    async def attempt(tls: ssl.SSLContext | None) -> asyncpg.Connection[asyncpg.Record]:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            host=host.target,
            port=host.port,
            user=dsn.user,
            password=dsn.password,
            database=dsn.database,
            ssl=tls or False,
            direct_tls=tls is not None and dsn.tls.direct,
            target_session_attrs=SessionAttribute(dsn.attributes),
            gsslib="gssapi",
            **options,
        )
        return connection

    try:
        return await attempt(attempts[0])
    except Exception as error:
        if len(attempts) == 1 or not _turned_down(error):
            raise
        try:
            return await attempt(attempts[1])
        except Exception as second:
            # What the wanted kind was refused for says more, if neither is let in; that there is no
            # TLS says nothing about the login.
            no_tls = type(error) is ConnectionError
            raise (error if _turned_down(second) and not no_tls else second) from None


def _turned_down(error: Exception) -> bool:
    """Whether the server refused this kind of connection, and may take the other one."""
    return (
        isinstance(error, (ssl.SSLError, asyncpg.InvalidAuthorizationSpecificationError))
        and not isinstance(error, asyncpg.InvalidPasswordError)
        # What asyncpg makes of the answer "no TLS here", and of nothing else.
    ) or type(error) is ConnectionError


def _notice_a_lost_peer(
    connection: asyncpg.Connection[asyncpg.Record], keepalive: Keepalive
) -> None:
    """Have the operating system end a connection whose other end is gone without a word."""
    transport = getattr(connection, "_transport", None)
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is None or connected.family == getattr(socket, "AF_UNIX", None):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive.on))
    # Not every system has every one.
    values = {
        "TCP_KEEPIDLE": keepalive.idle,
        "TCP_KEEPINTVL": keepalive.interval,
        "TCP_KEEPCNT": keepalive.count,
        "TCP_USER_TIMEOUT": keepalive.user_timeout,
    }
    for name, value in values.items():
        if hasattr(socket, name) and value:
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
