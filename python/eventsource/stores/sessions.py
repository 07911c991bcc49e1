"""Which server a store's connections lead to.

A pool connects again by itself. At the same address there may be another server by then, or the
same one restored to an earlier time, which takes appends that nobody finds again. A router that
follows tenants from store to store has to ask again then, before it appends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

_SERVER = (
    "select pg_postmaster_start_time(), (select oid::bigint from pg_database"
    " where datname = current_database())"
)


class ServerChanged(Exception):
    """A connection leads to another server, or to one that was started since; nothing was done."""


class Sessions:
    """The connections that are known, and the server that they are trusted to lead to.

    Nothing is asked until somebody calls `watch`, and then once for each connection.
    """

    __slots__ = ("_is_watched", "_known", "_latest", "_trusted")

    def __init__(self) -> None:
        self._is_watched = False
        self._known: WeakSet[Any] = WeakSet()
        self._latest: tuple[Any, ...] | None = None
        self._trusted: tuple[Any, ...] | None = None

    def watch(self) -> None:
        """From now on a connection to another server is an error of the append."""
        self._is_watched = True

    async def check(self, connection: AnyConnection) -> None:
        """Look where a connection leads that was not seen before.

        Raises:
            ServerChanged: to another server than the trusted one; the next time it is known. Every
                such connection says so, as several may be opened before anybody has asked.
        """
        # A pool lends a connection by a proxy, another one each time.
        session = getattr(connection, "_con", None) or connection
        if not self._is_watched or session in self._known:
            return
        self._latest = tuple(await connection.fetchrow(_SERVER) or ())
        self._known.add(session)
        if self._trusted is None:
            self._trusted = self._latest
        if self._trusted != self._latest:
            raise ServerChanged

    def trust(self) -> None:
        """The server that was seen last is the one that was meant."""
        self._trusted = self._latest
