"""Drives eventsource-py in its own environment: prints one JSON line.

    python -I library_driver.py SOURCE_DSN TARGET_DSN MODE EVENTS STREAMS

MODE is `batched` (no position mapper, each stream's events of a batch in one append) or `default`
(with the mapper, which its configuration switches on). EVENTS are the first ones of a workload A
with STREAMS streams. Uses that library's public names only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import asyncpg
from eventsource.adapters.postgresql import PostgreSQLEventStore
from eventsource.adapters.sql.migration import (
    PostgreSQLMigrationRepository,
    PostgreSQLPositionMappingRepository,
)
from eventsource.application.migration import BulkCopier, PositionMapper
from eventsource.migrations import get_schema
from eventsource.ports.migration import Migration, MigrationConfig
from sqlalchemy.ext.asyncio import create_async_engine

from eventsource import DomainEvent, EventRegistry

TENANT, OTHER = uuid4(), uuid4()

_COLUMNS = ["event_id", "event_type", "aggregate_type", "aggregate_id", "tenant_id", "actor_id",
            "version", "timestamp", "payload"]  # fmt: skip

_FINGERPRINT = f"""
select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text
from (select {", ".join(_COLUMNS)} from events where tenant_id = $1) t
"""


class OrderLineAdded(DomainEvent):
    """As large as an event of workload A."""

    event_type: str = "OrderLineAdded"
    aggregate_type: str = "Order"
    line: int
    note: str


def row(tenant: UUID, number: int, streams: int) -> tuple[object, ...]:
    """One row of its event table."""
    event = OrderLineAdded(
        aggregate_id=uuid5(NAMESPACE_URL, f"{tenant}/{number % streams}"),
        aggregate_version=number // streams + 1,
        tenant_id=tenant,
        actor_id=f"user-{number % 97}",
        line=number,
        # Shorter than workload A's: its payload repeats the columns and is larger anyway.
        note="x" * 60,
    )
    return (
        event.event_id, event.event_type, event.aggregate_type, event.aggregate_id, tenant,
        event.actor_id, event.aggregate_version, event.occurred_at,
        json.dumps(event.model_dump(mode="json")),
    )  # fmt: skip


async def fill(dsn: str, events: int, streams: int) -> None:
    """Workload A in its schema: the tenant's events between those of another."""
    connection = await asyncpg.connect(dsn)
    rows = [row(tenant, n, streams) for n in range(events) for tenant in (TENANT, OTHER)]
    await connection.copy_records_to_table("events", records=rows, columns=_COLUMNS)
    await connection.execute("vacuum analyze events")
    await connection.close()


async def make(dsn: str, *schemas: str) -> None:
    connection = await asyncpg.connect(dsn)
    for schema in schemas:
        await connection.execute(get_schema(schema))
    await connection.close()


async def same(source_dsn: str, target_dsn: str, events: int, mapped: bool) -> bool:
    """Whether the target holds the tenant's rows, and the mapping one row for each."""
    found = []
    for dsn in (source_dsn, target_dsn):
        connection = await asyncpg.connect(dsn)
        found.append(tuple(await connection.fetchrow(_FINGERPRINT, TENANT)))
        if dsn == source_dsn:
            mappings = await connection.fetchval(
                "select count(distinct event_id) from migration_position_mappings"
            )
        await connection.close()
    return found[0] == found[1] and found[0][0] == events and mappings == (events if mapped else 0)


def engine(dsn: str):
    return create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1))


async def copy(source_dsn: str, target_dsn: str, mapped: bool) -> float:
    """Seconds of its bulk copier, its limit of 10,000 events/s lifted."""
    source_engine, target_engine = engine(source_dsn), engine(target_dsn)
    registry = EventRegistry()
    registry.register(OrderLineAdded)
    source = PostgreSQLEventStore(source_engine, registry, store_id="shared")
    target = PostgreSQLEventStore(target_engine, registry, store_id="dedicated")
    repository = PostgreSQLMigrationRepository(source_engine)
    mapper = PositionMapper(PostgreSQLPositionMappingRepository(source_engine))
    migration = Migration(
        id=uuid4(), tenant_id=TENANT, source_store_id="shared", target_store_id="dedicated",
        config=MigrationConfig(max_bulk_copy_rate=10**9, position_mapping_enabled=mapped),
    )  # fmt: skip
    await repository.create(migration)
    copier = BulkCopier(source, target, repository, position_mapper=mapper if mapped else None)
    began = time.monotonic()
    async for _ in copier.run(migration):
        pass
    seconds = time.monotonic() - began
    await source_engine.dispose()
    await target_engine.dispose()
    return seconds


async def main() -> None:
    source_dsn, target_dsn, mode = sys.argv[1:4]
    events, streams = int(sys.argv[4]), int(sys.argv[5])
    await make(source_dsn, "events", "migration")
    await make(target_dsn, "events")
    await fill(source_dsn, events, streams)
    seconds = await copy(source_dsn, target_dsn, mode == "default")
    right = await same(source_dsn, target_dsn, events, mode == "default")
    print(json.dumps({"seconds": seconds, "events": events, "right": right}))


asyncio.run(main())
