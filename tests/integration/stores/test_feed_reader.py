"""Reading the feed: every event once and in order; a tenant that arrives is no part of it yet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource import DomainEvent, ExpectedVersion
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.feed_reader import (
    Connection,
    Counted,
    append,
    feed_store,  # noqa: F401 - the fixture "store"
    other_session,  # noqa: F401 - the fixture "other"
    positions,
)

CARRIED = """
    insert into events (global_position, tenant_id, event_id, aggregate_id, aggregate_type,
                        event_type, version, timestamp, payload)
    values ({}, '{}', gen_random_uuid(), gen_random_uuid(), 'Cart', 'Counted', 1, now(), '{{}}')
"""


async def test_a_reader_that_goes_on_sees_every_event_once_and_in_order(
    store: PostgreSQLEventStore,
) -> None:
    """Twelve writers that commit late, roll back or append in one statement; one reader."""
    chance = random.Random(7)
    committed: list[int] = []
    writing = True

    async def write() -> None:
        for _ in range(15):
            async with store.pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                mine = [await append(store, connection) for _ in range(chance.randint(1, 3))]
                await asyncio.sleep(chance.random() * 0.02)
                if chance.random() < 0.2:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    committed.extend(mine)

    async def follow() -> list[int]:
        seen: list[int] = []
        while True:
            last_round = not writing
            seen += await positions(store, seen[-1] if seen else 0)
            if last_round:
                return seen

    reader = asyncio.create_task(follow())
    await asyncio.gather(*(write() for _ in range(10)))
    writing = False
    assert await reader == sorted(committed)


async def test_the_feed_is_read_in_chunks_without_holding_a_connection(
    store: PostgreSQLEventStore,
) -> None:
    cart = uuid4()
    for batch in range(5):
        events = [Counted(aggregate_id=cart) for _ in range(300)]
        await store.append_events(cart, "Cart", events, batch * 300)
    seen = []
    async for row in store.read_all():
        seen.append(row.global_position)
        if len(seen) == 250:
            assert store.pool.get_idle_size() == store.pool.get_size()
            await append(store)
    assert seen == list(range(1, 1501))
    assert len([row async for row in store.read_stream(cart, "Cart", 100)]) == 1400
    assert (await store.get_events(cart)).version == 1500


async def test_large_events_are_read_a_few_at_a_time(store: PostgreSQLEventStore) -> None:
    class Big(DomainEvent):
        aggregate_type: str = "Cart"
        text: str

    cart = uuid4()
    for n in range(12):
        big = [Big(aggregate_id=cart, text=str(n) * 1_000_000)]
        await store.append_events(cart, "Cart", big, ExpectedVersion.ANY)
    assert [row.payload["text"][:2] async for row in store.read_all()] == [
        str(n)[0] * 2 if n < 10 else str(n) for n in range(12)
    ]


class TestAnArrivingTenant:
    """Carried rows do not appear in the order of their positions until the tenant is opened."""

    tenant, migration = uuid4(), uuid4()

    @pytest.fixture
    async def migrator(self, source_dsn: str) -> AsyncIterator[Connection]:
        connection = await asyncpg.connect(
            source_dsn, server_settings={"eventsource.migration": str(self.migration)}
        )
        yield connection
        await connection.close()

    @pytest.fixture(autouse=True)
    async def _closed(self, store: PostgreSQLEventStore, other: Connection) -> None:
        await append(store)
        await other.execute(
            "insert into eventsource_fences (table_name, tenant_id, role, state, generation, "
            "migration_id, store_id, patience_ms, lock_id) values"
            " ('events', $1, 'target', 'closed', 1, $2, 'b', 7000, 1)",
            str(self.tenant),
            self.migration,
        )
        await other.execute("select setval('events_global_position_seq', 1000, true)")

    async def test_is_no_part_of_the_feed_until_it_is_opened(
        self, store: PostgreSQLEventStore, other: Connection, migrator: Connection
    ) -> None:
        for position in (30, 10):
            await migrator.execute(CARRIED.format(position, self.tenant))
        await append(store)
        assert await positions(store) == [1, 1001]
        assert [row async for row in store.read_all(tenant_id=self.tenant)] == []
        assert await store.get_global_position() == 1001
        await migrator.execute(CARRIED.format(20, self.tenant))

        await other.execute("update eventsource_fences set state = 'open'")
        mine = [row.global_position async for row in store.read_all(tenant_id=self.tenant)]
        assert mine == [10, 20, 30]
        assert await positions(store) == [1, 10, 20, 30, 1001]

    async def test_holds_up_nobody_else_while_it_is_carried(
        self, store: PostgreSQLEventStore, migrator: Connection
    ) -> None:
        transaction = migrator.transaction()
        await transaction.start()
        await migrator.execute(CARRIED.format(10, self.tenant))
        await append(store)
        assert await positions(store) == [1, 1001]
        await transaction.commit()

    async def test_of_another_table_does_not_matter(self, store: PostgreSQLEventStore) -> None:
        neighbour = PostgreSQLEventStore(store.pool, "neighbour")
        await neighbour.create_schema()
        event = Counted(aggregate_id=uuid4(), tenant_id=self.tenant)
        await neighbour.append_events(event.aggregate_id, "Cart", [event], 0)
        assert await positions(neighbour) == [1]
