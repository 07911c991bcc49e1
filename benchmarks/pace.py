"""How fast rows arrive at a table, seen from outside and alike for every peer.

The size of the heap grows as rows are written, whether their transaction has committed or not, and
asking for it reads one number. Index builds and proofs show as a line that no longer rises.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg

INTERVAL_SECONDS = 0.1


@dataclass(slots=True)
class Pace:
    """``samples`` are (seconds of the wall clock, bytes of the heap beyond the first look)."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    def as_events(self, events: int, began: float, seconds: float) -> list[tuple[float, int]]:
        """(seconds since ``began``, events there) until the end of the run.

        The heap at the end stands for all events.
        """
        full = max((size for _, size in self.samples), default=0) or 1
        points = [
            (round(at - began, 3), round(events * size / full))
            for at, size in self.samples
            if 0 < at - began < seconds
        ]
        return [(0.0, 0), *points, (round(seconds, 3), events)]


@contextlib.asynccontextmanager
async def watching(dsn: str, table: str = "events") -> AsyncIterator[Pace]:
    """Sample the table's size while the body runs."""
    connection = await asyncpg.connect(dsn)
    empty = await connection.fetchval("select pg_relation_size($1::text::regclass)", table)
    pace = Pace()
    task = asyncio.create_task(_sample(connection, table, empty, pace))
    try:
        yield pace
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        connection.terminate()


async def _sample(connection: asyncpg.Connection, table: str, empty: int, pace: Pace) -> None:
    while True:
        size = await connection.fetchval("select pg_relation_size($1::text::regclass)", table)
        pace.samples.append((time.time(), size - empty))
        await asyncio.sleep(INTERVAL_SECONDS)
