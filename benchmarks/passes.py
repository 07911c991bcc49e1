"""A migration in dual-write whose catch-up passes a benchmark runs one by one.

Nothing mirrors here: every new event is left to the passes, which is the most they can have to do.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import asyncpg

from benchmarks.bench import Bench, forget
from benchmarks.move import process
from benchmarks.workload import TENANT, right, write_more
from eventsource.migration import Migration
from eventsource.migration.connections.driver_connections import DriverConnections, Endpoints
from eventsource.migration.consistency import lag
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from eventsource.migration.steps.passes import Passes

_LOG = "select pg_current_wal_insert_lsn()"


@dataclass(frozen=True, slots=True)
class Timed:
    """A pass: its seconds, and the bytes of write-ahead log at the target meanwhile."""

    seconds: float
    log_bytes: int


@dataclass(frozen=True, slots=True)
class CatchUp:
    """``source`` is a connection that writes as an application would."""

    passes: Passes
    migration: Migration
    source: asyncpg.Connection

    async def timed(self, events: int) -> Timed:
        """Write so many events, and carry them with one pass."""
        await write_more(self.source, TENANT, events)
        target = self.passes.connections.target.connection
        log = await target.fetchval(_LOG)
        began = time.monotonic()
        result = await self.passes.catch_up()
        seconds = time.monotonic() - began
        written = int(await target.fetchval(f"{_LOG} - $1::pg_lsn", log))
        right(
            result is not None and result.rows == result.inserted == events,
            f"a pass over {events} events carried {result and result.inserted}",
        )
        return Timed(seconds, written)

    async def lag(self) -> int:
        """The lag as the product reports it."""
        connections = self.passes.connections
        return await lag.sync_lag(connections.source, connections.target, self.migration)


@asynccontextmanager
async def catching_up(bench: Bench, source_dsn: str) -> AsyncIterator[CatchUp]:
    """Copy the tenant, then take over from the driver; leaves the source as it was."""
    target_dsn, control_dsn = await bench.database("store"), await bench.database("control")
    source = await asyncpg.connect(source_dsn)
    try:
        async with process(source_dsn, target_dsn, control_dsn) as opened:
            migration = await opened.copied()
            await opened.coordinator.close()
            repository = PostgreSQLMigrationRepository(opened.control)
            endpoints = await Endpoints.of(repository, opened.source, opened.target)
            connections = await DriverConnections.open(endpoints, migration.id)
            try:
                passes = await _take_over(connections, migration, repository)
                # What the driver's last pass left open, if it was cut short.
                await passes.catch_up()
                yield CatchUp(passes, migration, source)
                await passes.session.close()
            finally:
                await connections.close()
    finally:
        await forget(source_dsn)
        await source.execute("delete from events where actor_id = 'later'")
        await source.execute("vacuum analyze events")
        await source.close()
        await bench.drop(target_dsn)
        await bench.drop(control_dsn)


async def _take_over(
    connections: DriverConnections, migration: Migration, repository: PostgreSQLMigrationRepository
) -> Passes:
    owner, hour = uuid4(), 3600.0
    right(
        await repository.acquire_lease(migration.id, owner, "benchmarks", hour),
        "the driver still holds the migration",
    )
    return await Passes.open(connections, migration, owner)
