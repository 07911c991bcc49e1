"""The feed never passes a position that may still appear, whoever writes it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource import DomainEvent, ExpectedVersion, register_event
from eventsource.errors import FeedBlockedError, StoreSchemaError
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster

Connection = asyncpg.Connection  # type: ignore[type-arg]

RAW_INSERT = """
    insert into events (event_id, aggregate_id, aggregate_type, event_type, version, timestamp,
                        payload)
    values (gen_random_uuid(), gen_random_uuid(), 'Cart', 'Counted', 1, now(), '{}')
"""


@register_event
class Counted(DomainEvent):
    aggregate_type: str = "Cart"


@pytest.fixture
async def store(source_dsn: str) -> AsyncIterator[PostgreSQLEventStore]:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=12) as pool:
        store = PostgreSQLEventStore(pool, foreign_writer_wait=0.3)
        await store.create_schema()
        yield store


@pytest.fixture
async def other(source_dsn: str) -> AsyncIterator[Connection]:
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


async def by_store(store: PostgreSQLEventStore, connection: Connection) -> None:
    await append(store, connection)


async def by_insert(store: PostgreSQLEventStore, connection: Connection) -> None:
    await connection.execute(RAW_INSERT)


async def by_insert_then_store(store: PostgreSQLEventStore, connection: Connection) -> None:
    await connection.execute(RAW_INSERT)
    await append(store)
    await append(store, connection)


async def by_copy(store: PostgreSQLEventStore, connection: Connection) -> None:
    row = (uuid4(), uuid4(), "Cart", "Counted", 1, "2024-01-01", "{}")
    columns = "event_id, aggregate_id, aggregate_type, event_type, version, timestamp, payload"
    line = "\t".join(map(str, row)) + "\n"

    async def lines() -> AsyncIterator[bytes]:
        yield line.encode()

    await connection.copy_to_table("events", source=lines(), columns=columns.split(", "))


async def as_a_replica(store: PostgreSQLEventStore, connection: Connection) -> None:
    await connection.execute("set local session_replication_role = replica")
    await connection.execute(RAW_INSERT)


async def behind_a_savepoint(store: PostgreSQLEventStore, connection: Connection) -> None:
    await connection.execute("savepoint one")
    await connection.execute(RAW_INSERT)
    await connection.execute("rollback to savepoint one")
    await append(store)
    await connection.execute(RAW_INSERT)


@pytest.mark.parametrize(
    "write",
    [by_store, by_insert, by_insert_then_store, by_copy, as_a_replica, behind_a_savepoint],
)
async def test_a_position_in_flight_is_waited_for_and_never_passed(
    store: PostgreSQLEventStore,
    other: Connection,
    write: Callable[[PostgreSQLEventStore, Connection], Awaitable[None]],
) -> None:
    await append(store)
    before = await positions(store)
    transaction = other.transaction()
    await transaction.start()
    await write(store, other)
    lowest = await other.fetchval(
        "select min(global_position) from events where transaction_id = pg_current_xact_id()"
    )
    higher = await append(store)

    seen = await positions(store)
    assert seen[: len(before)] == before
    assert all(position < lowest for position in seen)
    assert await store.get_global_position() == seen[-1] < lowest

    await transaction.commit()
    rest = await positions(store, seen[-1])
    assert lowest in rest
    assert rest[-1] == higher == await store.get_global_position()


async def test_rolled_back_positions_hold_nobody_up(
    store: PostgreSQLEventStore, other: Connection
) -> None:
    await append(store)
    transaction = other.transaction()
    await transaction.start()
    await append(store, other)
    await transaction.rollback()
    last = await append(store)
    assert await positions(store) == [1, 3]
    assert await store.get_global_position() == last == 3


async def test_a_gap_at_the_end_is_no_event(store: PostgreSQLEventStore, other: Connection) -> None:
    await append(store)
    transaction = other.transaction()
    await transaction.start()
    await append(store, other)
    await transaction.rollback()
    assert await store.get_global_position() == 1


@pytest.mark.parametrize(
    "statement",
    ["insert into unrelated values (1)", "select * from events for update", "table events"],
)
async def test_an_old_transaction_that_writes_no_events_holds_nobody_up(
    store: PostgreSQLEventStore, other: Connection, statement: str
) -> None:
    await append(store)
    await other.execute("create table unrelated (n int)")
    transaction = other.transaction(isolation="repeatable_read")
    await transaction.start()
    await other.execute(statement)
    await append(store)
    assert await positions(store) == [1, 2]
    assert await store.get_global_position() == 2
    await transaction.rollback()


async def test_a_prepared_transaction_is_still_in_flight(
    store: PostgreSQLEventStore, other: Connection
) -> None:
    await append(store)
    await other.execute("begin")
    await other.execute(RAW_INSERT)
    await other.execute("prepare transaction 'slow'")
    await append(store)
    assert await positions(store) == [1]
    assert await store.get_global_position() == 1
    await other.execute("commit prepared 'slow'")
    assert await positions(store) == [1, 2, 3]


async def test_positions_of_another_table_hold_nobody_up(
    store: PostgreSQLEventStore, other: Connection
) -> None:
    neighbour = PostgreSQLEventStore(store.pool, "neighbour")
    await neighbour.create_schema()
    transaction = other.transaction()
    await transaction.start()
    await append(neighbour, other)
    await append(store)
    assert await positions(store) == [1]
    await append(store, other)
    assert await positions(store) == [1]
    await transaction.commit()
    assert await positions(store) == [1, 2]
    assert await positions(neighbour) == [1]


async def test_many_appends_of_one_transaction_announce_once(
    store: PostgreSQLEventStore, other: Connection
) -> None:
    async with other.transaction():
        for _ in range(20):
            await append(store, other)
        locks = await other.fetchval(
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        )
        assert locks == 1
    assert await positions(store) == list(range(1, 21))


class TestWritersThatDoNotAnnounce:
    @pytest.fixture(autouse=True)
    async def _no_trigger(self, store: PostgreSQLEventStore) -> None:
        await append(store)
        await store.pool.execute("alter table events disable trigger eventsource_announce")

    async def test_the_feed_ends_early_and_the_head_names_them(
        self, store: PostgreSQLEventStore, other: Connection
    ) -> None:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(RAW_INSERT)
        await append(store)
        assert await positions(store) == []
        with pytest.raises(FeedBlockedError, match=f"pid {other.get_server_pid()}") as caught:
            await store.get_global_position()
        assert caught.value.waited_seconds >= 0.3
        assert "insert into events" in caught.value.blockers[0]
        await transaction.commit()
        assert await positions(store) == [1, 2, 3]

    async def test_a_prepared_one_is_named_too(
        self, store: PostgreSQLEventStore, other: Connection
    ) -> None:
        await other.execute("begin")
        await other.execute(RAW_INSERT)
        await other.execute("prepare transaction 'left behind'")
        with pytest.raises(FeedBlockedError, match="prepared transaction 'left behind'"):
            await store.get_global_position()
        await other.execute("rollback prepared 'left behind'")

    async def test_a_short_one_is_waited_for(
        self, store: PostgreSQLEventStore, other: Connection
    ) -> None:
        patient = PostgreSQLEventStore(store.pool, foreign_writer_wait=30)
        transaction = other.transaction()
        await transaction.start()
        await other.execute(RAW_INSERT)
        await append(store)
        reading = asyncio.create_task(positions(patient))
        done, _ = await asyncio.wait([reading], timeout=0.2)
        assert not done
        await transaction.commit()
        assert await reading == [1, 2, 3]

    async def test_later_ones_are_not_waited_for(
        self, store: PostgreSQLEventStore, other: Connection, source_dsn: str
    ) -> None:
        patient = PostgreSQLEventStore(store.pool, foreign_writer_wait=30)
        first = other.transaction()
        await first.start()
        await other.execute(RAW_INSERT)
        reading = asyncio.create_task(positions(patient))
        await asyncio.wait([reading], timeout=0.1)
        later = await asyncpg.connect(source_dsn)
        try:
            await later.execute("begin")
            await later.execute(RAW_INSERT)
            await first.commit()
            assert await asyncio.wait_for(reading, 10) == [1, 2]
        finally:
            await later.close()


async def test_create_schema_gives_the_announcement_back(
    store: PostgreSQLEventStore, other: Connection
) -> None:
    await other.execute("alter table events disable trigger eventsource_announce")
    await store.create_schema()
    async with other.transaction():
        await other.execute(RAW_INSERT)
        assert await store.get_global_position() == 0


@pytest.mark.parametrize("last", [2**31 - 3, 2**32 - 3, 2**33, 2**62])
async def test_positions_of_any_size_are_announced(
    store: PostgreSQLEventStore, other: Connection, last: int
) -> None:
    await other.execute(f"select setval('events_global_position_seq', {last}, true)")
    await append(store)
    transaction = other.transaction()
    await transaction.start()
    await append(store, other)
    for _ in range(3):
        await append(store)
    assert await positions(store) == [last + 1]
    await transaction.commit()
    assert await positions(store) == [last + n for n in range(1, 6)]


async def test_a_jump_of_the_sequence_makes_nobody_forget_who_is_in_flight(
    store: PostgreSQLEventStore, other: Connection
) -> None:
    """Each migration into a store in use reserves a block of more than a billion positions."""
    await append(store)
    transaction = other.transaction()
    await transaction.start()
    await append(store, other)
    for migrations in range(1, 9):
        await store.pool.execute(
            f"select setval('events_global_position_seq', {migrations * 1_000_000_000}, true)"
        )
        await append(store)
        assert await positions(store) == [1]
    await transaction.commit()
    assert (await positions(store))[:2] == [1, 2]


async def test_a_sequence_that_is_restarted_hides_nothing(
    store: PostgreSQLEventStore, other: Connection
) -> None:
    await append(store)
    await other.execute("alter table events alter column global_position restart with 600")
    assert await positions(store) == [1]
    transaction = other.transaction()
    await transaction.start()
    assert await append(store, other) == 600
    assert await append(store) == 601
    assert set(await positions(store)) <= {1}
    await transaction.commit()
    assert await positions(store) == [1, 600, 601]


CARRIED = """
    insert into events (global_position, tenant_id, event_id, aggregate_id, aggregate_type,
                        event_type, version, timestamp, payload)
    values ({}, '{}', gen_random_uuid(), gen_random_uuid(), 'Cart', 'Counted', 1, now(), '{{}}')
"""


class TestAnArrivingTenant:
    """Carried rows do not appear in the order of their positions until the tenant is opened."""

    tenant = uuid4()

    @pytest.fixture
    async def migrator(self, source_dsn: str) -> AsyncIterator[Connection]:
        connection = await asyncpg.connect(
            source_dsn, server_settings={"eventsource.migration": str(uuid4())}
        )
        yield connection
        await connection.close()

    @pytest.fixture(autouse=True)
    async def _closed(self, store: PostgreSQLEventStore, other: Connection) -> None:
        await append(store)
        await other.execute(
            "insert into eventsource_fences (table_name, tenant_id, role, state, generation, "
            "migration_id, store_id, patience_ms) values"
            " ('events', $1, 'target', 'closed', 1, $2, 'b', 7000)",
            self.tenant,
            uuid4(),
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


@pytest.fixture
def restartable() -> Iterator[Cluster]:
    with Cluster.start(18) as cluster:
        yield cluster


async def test_a_prepared_transaction_is_still_in_flight_after_a_crash(
    restartable: Cluster,
) -> None:
    async with asyncpg.create_pool(restartable.dsn(), min_size=1) as pool:
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        await append(store)
        async with pool.acquire() as connection:
            await connection.execute("begin")
            await connection.execute(RAW_INSERT)
            await connection.execute("prepare transaction 'survivor'")
        await append(store)
    restartable.crash()
    restartable.restart()
    async with asyncpg.create_pool(restartable.dsn(), min_size=1) as pool:
        store = PostgreSQLEventStore(pool)
        assert await positions(store) == [1]
        await pool.execute("commit prepared 'survivor'")
        assert await positions(store) == [1, 2, 3]


async def test_a_standby_is_refused_because_it_does_not_show_who_writes(
    restartable: Cluster,
) -> None:
    async with asyncpg.create_pool(restartable.dsn(), min_size=1) as pool:
        await PostgreSQLEventStore(pool).create_schema()
    (restartable.data_dir / "standby.signal").touch()
    restartable.restart()
    async with asyncpg.create_pool(restartable.dsn(), min_size=1) as pool:
        store = PostgreSQLEventStore(pool)
        assert await store.get_stream_version(uuid4()) == 0
        with pytest.raises(StoreSchemaError, match="primary"):
            await store.get_global_position()
        with pytest.raises(StoreSchemaError, match="primary"):
            await positions(store)
