"""The feed never passes a position that may still appear, whoever writes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.errors import FeedBlockedError, StoreSchemaError
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster
from tests.support.feed_reader import (
    RAW_INSERT,
    Connection,
    Counted,
    append,
    feed_store,  # noqa: F401 - the fixture "store"
    other_session,  # noqa: F401 - the fixture "other"
    positions,
)


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

    async def test_one_is_waited_for_also_while_an_append_is_refused_for_a_missing_table(
        self, store: PostgreSQLEventStore, other: Connection
    ) -> None:
        """A trigger of the application's writes to it: the store looks at its own again."""
        patient = PostgreSQLEventStore(store.pool, foreign_writer_wait=30)
        await store.pool.execute(
            "create function broken() returns trigger language plpgsql as"
            " $$ begin insert into not_there values (1); return new; end $$;"
            "create trigger broken before insert on events for each row"
            " when (new.actor_id = 'broken') execute function broken()"
        )
        transaction = other.transaction()
        await transaction.start()
        await other.execute(RAW_INSERT)
        reading = asyncio.create_task(positions(patient))
        await asyncio.wait([reading], timeout=0.1)
        event = Counted(aggregate_id=uuid4(), actor_id="broken")
        with pytest.raises(asyncpg.UndefinedTableError, match="not_there"):
            await patient.append_events(event.aggregate_id, "Cart", [event], 0)
        done, _ = await asyncio.wait([reading], timeout=0.2)
        assert not done
        await transaction.commit()
        assert await reading == [1, 2]

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
