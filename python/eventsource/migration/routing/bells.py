"""Announcing appends to subscriptions in other processes, beside the appends, never in them.

A NOTIFY in the transaction of an append would make the commits of a whole database take turns. So
it comes after the append, in a statement of its own, at most every few hundredths of a second for
each store, and only while somebody listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import asyncpg

from eventsource.errors import EventSourceError
from eventsource.stores.interface import EventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions.hearing import APPLICATION, CHANNEL, topic_of

#: Between two announcements for one store (seconds).
RING_EVERY = 0.05

#: How long an answer is believed whether anybody listens (seconds).
LISTENERS_EVERY = 3.0

_HEARD = """
select exists (select from pg_stat_activity
               where datname = current_database() and application_name = $1)
"""


@dataclass(slots=True)
class _Bell:
    store: PostgreSQLEventStore
    again: bool = False
    heard: bool = False
    asked_at: float = float("-inf")
    ringing: asyncio.Task[None] | None = None

    async def ring(self) -> None:
        """Announce, and once more for what was appended meanwhile."""
        while self.again:
            self.again = False
            with contextlib.suppress(
                asyncpg.PostgresError, asyncpg.InterfaceError, OSError, EventSourceError
            ):
                await self._announce()
            await asyncio.sleep(RING_EVERY)

    async def _announce(self) -> None:
        pool = self.store.pool
        if time.monotonic() - self.asked_at > LISTENERS_EVERY:
            self.asked_at = time.monotonic()
            self.heard = bool(await pool.fetchval(_HEARD, APPLICATION))
        if self.heard:
            await pool.execute("select pg_notify($1, $2)", CHANNEL, await topic_of(self.store))


@dataclass(slots=True)
class Bells:
    """One for each store of a router."""

    _bells: dict[str, _Bell] = field(default_factory=dict)

    def ring(self, store_id: str, store: EventStore) -> None:
        """Something was appended to the store; returns at once."""
        if not isinstance(store, PostgreSQLEventStore):
            return
        bell = self._bells.setdefault(store_id, _Bell(store))
        bell.again = True
        if bell.ringing is None or bell.ringing.done():
            bell.ringing = asyncio.get_running_loop().create_task(bell.ring())

    async def close(self) -> None:
        """Stop announcing."""
        # Taken out first: somebody may append to another store meanwhile.
        bells, self._bells = self._bells, {}
        for bell in bells.values():
            if bell.ringing is not None:
                bell.ringing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await bell.ringing
