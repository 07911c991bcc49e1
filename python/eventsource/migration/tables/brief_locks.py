"""Locks that hold the writers of every tenant off: asked for briefly, and kept briefly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.migration.connections import waits
from eventsource.migration.connections.transactions import transaction

if TYPE_CHECKING:
    from eventsource.migration.connections.waits import Look

#: CREATE TRIGGER queues every tenant's writers while it waits, so it waits briefly:
#: with the work after the wait, no append is delayed by more than 250 ms.
LOCK_TIMEOUT_MS = 100

#: A process that freezes while it holds such a lock is cut off by the server after this long, and
#: four round trips: until then the writers of every tenant of the table wait, also those that have
#: waited for the lock's timeout before. A merely slow process retries.
FROZEN_AFTER_MS = 100

#: How long such a transaction may take as a whole, where the server can see to that.
TRANSACTION_TIMEOUT_MS = 15_000


class LockNeverGranted(Exception):
    """The lock was not granted before the caller gave up."""


def end_after(milliseconds: int) -> str:
    """A statement by which PostgreSQL 17 and later end the transaction, whatever it is at.

    A driver that goes silent between parsing a statement and running it is not idle to the server.
    """
    return (
        f"select set_config('transaction_timeout', '{milliseconds}', true)"
        " where current_setting('transaction_timeout', true) is not null"
    )


@asynccontextmanager
async def held_briefly(
    connection: asyncpg.Connection[Any], lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> AsyncIterator[None]:
    """A transaction that will hold writers off: it neither waits for long nor keeps them long."""
    asked = time.monotonic()
    async with transaction(connection):
        round_trip_ms = (time.monotonic() - asked) * 1000
        await connection.execute(
            f"set local lock_timeout = {lock_timeout_ms};"
            "set local idle_in_transaction_session_timeout ="
            f" {FROZEN_AFTER_MS + int(4 * round_trip_ms)};" + end_after(TRANSACTION_TIMEOUT_MS)
        )
        yield


async def transact(
    connection: asyncpg.Connection[Any],
    work: Callable[[], Awaitable[None]],
    carry_on: Callable[[], bool] = lambda: True,
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    what: str = "for a lock",
    look: Look | None = None,
) -> None:
    """Run DDL in a transaction whose lock waits stay short, again until it gets through.

    Args:
        what: what is waited for, for the journal.
        look: who is in the way; asked between two attempts, so it may use the connection.
    """
    pause = 0.05
    async with waits.waiting(what, "it ends with their transactions") as wait:
        while True:
            try:
                async with held_briefly(connection, lock_timeout_ms):
                    await work()
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if not carry_on():
                    raise LockNeverGranted from None
                await wait.goes_on(look)
                # Let the writers that queued during the attempt run before the next one.
                await _rest(pause, carry_on)
                pause = min(pause * 2, 1.0 if wait.seconds < 60 else 5.0)


async def _rest(seconds: float, carry_on: Callable[[], bool]) -> None:
    """Wait, but not long past the moment when nobody wants the lock any more."""
    while seconds > 0 and carry_on():
        await asyncio.sleep(min(seconds, 0.5))
        seconds -= 0.5
