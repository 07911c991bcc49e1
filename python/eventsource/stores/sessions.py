"""Which server a store's connections lead to.

A pool connects again by itself. At the same address there may be another server by then, or the
same one restored to an earlier time, which takes appends that nobody finds again. A router that
follows tenants from store to store has to ask again then, before it appends or reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

_SERVER = (
    "select pg_postmaster_start_time(), (select oid::bigint from pg_database"
    " where datname = current_database())"
)


_is_followed = ContextVar("eventsource_is_followed", default=False)


@contextmanager
def followed() -> Iterator[None]:
    """An append in the block is an error where its connection leads to another server.

    For those that follow a tenant: nobody else knows what to do about `ServerChanged`.
    """
    token = _is_followed.set(True)
    try:
        yield
    finally:
        _is_followed.reset(token)


class ServerChanged(Exception):
    """A connection leads to another server, or to one that was started since; nothing was done."""


class Sessions:
    """The connections that are known, and the server that they are trusted to lead to.

    Asked once for each connection, by the first append or read over it that follows a tenant.
    """

    __slots__ = ("_known", "_latest", "_trusted")

    def __init__(self) -> None:
        self._known: WeakSet[Any] = WeakSet()
        self._latest: tuple[Any, ...] | None = None
        self._trusted: tuple[Any, ...] | None = None

    async def check(self, connection: AnyConnection) -> None:
        """Look where a connection leads that was not seen before.

        Raises:
            ServerChanged: to another server than the trusted one; the next time it is known. Every
                such connection says so, as several may be opened before anybody has asked.
        """
        if _is_followed.get() and await self.leads_elsewhere(connection):
            raise ServerChanged

    async def leads_elsewhere(self, connection: AnyConnection) -> bool:
        """Whether it was not seen before and leads to another server than the trusted one."""
        # A pool lends a connection by a proxy, another one each time.
        session = getattr(connection, "_con", None) or connection
        if session in self._known:
            return False
        self._latest = tuple(await connection.fetchrow(_SERVER) or ())
        self._known.add(session)
        if self._trusted is None:
            self._trusted = self._latest
        return self._trusted != self._latest

    def trust(self) -> None:
        """The server that was seen last is the one that was meant."""
        self._trusted = self._latest
