"""A tenant moved by hand: rows copied with an offset, mapping and journal written as the data
plane and the driver leave them. So every checkpoint can be tried, at positions that are known."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import asyncpg

from eventsource import DomainEvent, ExpectedVersion, register_event
from eventsource.migration import PositionMapper, SubscriptionMigrator, create_schema
from eventsource.migration.repositories import (
    PostgreSQLAuditLogRepository,
    PostgreSQLPositionMappingRepository,
)
from eventsource.migration.subscriptions.redelivered import Redelivered, Redelivery
from eventsource.stores.interface import StoredEvent
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository, Subscription

CARRIED = (
    "event_id, aggregate_id, aggregate_type, event_type, tenant_id, version, timestamp, actor_id,"
    " payload, metadata, created_at"
)
SOURCE_ID, TARGET_ID = "shared", "dedicated-a"


@register_event
class HandMoved(DomainEvent):
    aggregate_type: str = "HandMoved"
    number: int


@dataclass
class Move:
    """A shared store, a dedicated one, and the tenant that goes from one to the other."""

    source: PostgreSQLEventStore
    target: PostgreSQLEventStore
    control: asyncpg.Pool
    checkpoints: PostgreSQLCheckpointRepository
    tenant: UUID = field(default_factory=uuid4)
    migration_id: UUID = field(default_factory=uuid4)

    @classmethod
    @asynccontextmanager
    async def between(
        cls, source_dsn: str, target_dsn: str, control_dsn: str
    ) -> AsyncIterator[Move]:
        """Stores and tables in three empty databases."""
        async with (
            asyncpg.create_pool(source_dsn, min_size=1, max_size=4) as source,
            asyncpg.create_pool(target_dsn, min_size=1, max_size=4) as target,
            asyncpg.create_pool(control_dsn, min_size=1, max_size=4) as control,
        ):
            made = cls(
                PostgreSQLEventStore(source),
                PostgreSQLEventStore(target),
                control,
                PostgreSQLCheckpointRepository(control),
            )
            await made.source.create_schema()
            await made.target.create_schema()
            await made.checkpoints.create_schema()
            await create_schema(control)
            yield made

    async def append(self, store: PostgreSQLEventStore, tenant: UUID, number: int) -> None:
        aggregate = uuid4()
        event = HandMoved(aggregate_id=aggregate, tenant_id=tenant, number=number)
        await store.append_events(aggregate, "HandMoved", [event], ExpectedVersion.NO_STREAM)

    async def interleave(self) -> list[int]:
        """Fifteen events at positions 1 to 15; returns the numbers of the five that will move,
        each one less than its position."""
        others = (uuid4(), uuid4())
        for number in range(15):
            tenant = self.tenant if number % 3 == 1 else others[number % 2]
            await self.append(self.source, tenant, number)
        return [number for number in range(15) if number % 3 == 1]

    async def perform(self, *, offset: int = 500, carried: bool = True) -> None:
        """Copy, map and record the decision; uncarried, the journal does not know the offset."""
        fence = await self.source.get_global_position()
        rows = io.BytesIO()
        async with self.source.pool.acquire() as connection:
            await connection.copy_from_query(
                f"select global_position + $1, {CARRIED} from events where tenant_id = $2",
                offset, self.tenant, output=rows, format="binary",
            )  # fmt: skip
            mapping = await connection.fetch(
                "select global_position, event_id from events where tenant_id = $1", self.tenant
            )
        rows.seek(0)
        columns = ["global_position", *CARRIED.split(", ")]
        async with self.target.pool.acquire() as connection:
            await connection.copy_to_table("events", source=rows, columns=columns, format="binary")
            await connection.execute(
                "select setval(pg_get_serial_sequence('events', 'global_position'), $1)",
                fence + offset,
            )
        await self.control.execute(
            "insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,"
            " position_offset, fence_position) values ($1, $2, $3, $4, 'migrated', $5, $6)",
            self.migration_id, str(self.tenant), SOURCE_ID, TARGET_ID,
            *((offset, fence) if carried else (None, None)),
        )  # fmt: skip
        await self.control.copy_records_to_table(
            "migration_position_mappings",
            records=[
                (self.migration_id, position, position + offset, event_id)
                for position, event_id in mapping
            ],
            columns=["migration_id", "source_position", "target_position", "event_id"],
        )

    @property
    def migrator(self) -> SubscriptionMigrator:
        mapper = PositionMapper(PostgreSQLPositionMappingRepository(self.control))
        return SubscriptionMigrator(position_mapper=mapper, checkpoint_repo=self.checkpoints)

    async def redelivered(self, name: str) -> Redelivered:
        """What the checkpoints of the subscription say by now."""
        mapper = PositionMapper(PostgreSQLPositionMappingRepository(self.control))
        log = await PostgreSQLAuditLogRepository(self.control).get_by_migration(self.migration_id)
        migration = await mapper.repository.migration(self.migration_id)
        counted = Redelivery(mapper, self.checkpoints, migration, (), ())
        [found] = [each for each in await counted.of(log) if each.subscription == name]
        return found

    async def numbers(self, name: str, store_id: str, tenant: UUID | None) -> list[int]:
        """The moved tenant's events that the subscription still gets from the store."""
        got: list[int] = []

        async def keep(event: StoredEvent) -> None:
            if event.tenant_id == self.tenant:
                got.append(event.payload["number"])

        store = {SOURCE_ID: self.source, TARGET_ID: self.target}[store_id]
        subscription = Subscription(
            name, store, store_id, self.checkpoints, keep, tenant, batch_size=4
        )
        await subscription.catch_up()
        return got
