"""A store to read from whose connections are looked at before anything is read over them."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import Pool

    from eventsource.stores.sessions import Sessions

#: Awaited before something is read from another server than the trusted one; it may raise.
Ask = Callable[[], Awaitable[None]]


class _AskedPool:
    """What reads need of a pool."""

    def __init__(self, pool: Pool[Any], sessions: Sessions, ask: Ask) -> None:
        self._pool, self._sessions, self._ask = pool, sessions, ask

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """A connection that leads where it is meant to, or about which somebody has asked."""
        while True:
            async with self._pool.acquire() as connection:
                if not await self._sessions.leads_elsewhere(connection):
                    yield connection
                    return
            # Without the connection: who asks needs one of the same pool.
            await self._ask()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """As a pool does."""
        async with self.acquire() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
        return rows


def asked(
    store: PostgreSQLEventStore, ask: Ask, sessions: Sessions | None = None
) -> PostgreSQLEventStore:
    """The same store to read from; ``ask`` is awaited before it goes on over another server.

    Args:
        sessions: what the reader knows of the connections; None: what the store's appends do.
    """
    reader = copy.copy(store)
    known = sessions or store.appender.sessions
    reader.pool = cast("Pool[Any]", _AskedPool(store.pool, known, ask))
    return reader
