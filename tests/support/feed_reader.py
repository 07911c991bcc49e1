"""A store whose feed is read, and somebody else who writes to its table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource import DomainEvent, register_event
from eventsource.stores.postgresql import PostgreSQLEventStore

Connection = asyncpg.Connection  # type: ignore[type-arg]

RAW_INSERT = """
    insert into events (event_id, aggregate_id, aggregate_type, event_type, version, timestamp,
                        payload)
    values (gen_random_uuid(), gen_random_uuid(), 'Cart', 'Counted', 1, now(), '{}')
"""


@register_event
class Counted(DomainEvent):
    aggregate_type: str = "Cart"


@pytest.fixture(name="store")
async def feed_store(source_dsn: str) -> AsyncIterator[PostgreSQLEventStore]:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=12) as pool:
        store = PostgreSQLEventStore(pool, foreign_writer_wait=0.3)
        await store.create_schema()
        yield store


@pytest.fixture(name="other")
async def other_session(source_dsn: str) -> AsyncIterator[Connection]:
    """A session of somebody else."""
    connection = await asyncpg.connect(source_dsn)
    yield connection
    await connection.close()


async def append(store: PostgreSQLEventStore, connection: Connection | None = None) -> int:
    cart = uuid4()
    result = await store.append_events(
        cart, "Cart", [Counted(aggregate_id=cart)], 0, connection=connection
    )
    return result.global_position


async def positions(store: PostgreSQLEventStore, after: int = 0) -> list[int]:
    return [row.global_position async for row in store.read_all(after)]
