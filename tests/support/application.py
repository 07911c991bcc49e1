"""What one process of an application has, and what it does: it appends, through its router.

Two of them share nothing but the databases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg

from eventsource import DomainEvent, register_event
from eventsource.migration import Migration, MigrationCoordinator, TenantStoreRouter
from eventsource.migration.repositories import (
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from eventsource.stores.interface import AppendResult
from eventsource.stores.postgresql import PostgreSQLEventStore

SOURCE, TARGET = "shared", "dedicated-a"


@register_event("world.noted")
class Noted(DomainEvent):
    """What the tests append."""

    aggregate_type: str = "Note"
    n: int = 0
    text: str = ""


@dataclass
class Process:
    """What one process has of its own."""

    pools: list[asyncpg.Pool]
    source: PostgreSQLEventStore
    target: PostgreSQLEventStore
    migrations: PostgreSQLMigrationRepository
    routes: PostgreSQLRoutingRepository
    router: TenantStoreRouter
    coordinator: MigrationCoordinator

    async def start(self, tenant: UUID, *, operator: str | None = None) -> Migration:
        return await self.coordinator.start_migration(
            tenant, self.source, self.target, SOURCE, TARGET, operator=operator
        )

    async def append(
        self,
        tenant: UUID,
        stream: UUID | None = None,
        version: int = 0,
        count: int = 1,
        text: str = "",
    ) -> AppendResult:
        """Append ``count`` events through the router."""
        stream = stream or uuid4()
        events = [
            Noted(aggregate_id=stream, tenant_id=tenant, n=version + i + 1, text=text)
            for i in range(count)
        ]
        return await self.router.append_events(stream, "Note", events, version)

    async def stop(self) -> None:
        """End as a process does that is asked to: what is durable stays."""
        await self.coordinator.close()
        await self.router.close()
        for pool in self.pools:
            pool.terminate()


class Writers:
    """Tasks that append to streams of their own and remember what was acknowledged."""

    def __init__(self, process: Process, tenant: UUID) -> None:
        self.process, self.tenant = process, tenant
        self.stopping = False
        self.acknowledged = 0
        self.longest = 0.0
        self.streams: dict[UUID, int] = {}

    async def write_on(self) -> None:
        stream = uuid4()
        self.streams[stream] = 0
        while not self.stopping:
            began = time.monotonic()
            result = await self.process.append(self.tenant, stream, self.streams[stream])
            self.longest = max(self.longest, time.monotonic() - began)
            self.streams[stream] = result.new_version
            self.acknowledged += 1
            await asyncio.sleep(0.005)


@asynccontextmanager
async def writing(process: Process, tenant: UUID, count: int = 4) -> AsyncIterator[Writers]:
    """Writers at work; an append that fails fails the test."""
    writers = Writers(process, tenant)
    tasks = [asyncio.create_task(writers.write_on()) for _ in range(count)]
    try:
        yield writers
    finally:
        writers.stopping = True
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error for error in ended if error is not None] == []
