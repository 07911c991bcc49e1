"""Appends of the PostgreSQL store: one round trip, transactions of the caller, conflicts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource import DomainEvent, ExpectedVersion, OptimisticLockError
from eventsource.errors import EventIdTakenError
from eventsource.stores.postgresql import PostgreSQLEventStore

Connection = asyncpg.Connection  # type: ignore[type-arg]


class Noted(DomainEvent):
    aggregate_type: str = "Note"
    text: str = ""


@pytest.fixture
async def store(source_dsn: str) -> AsyncIterator[PostgreSQLEventStore]:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=10) as pool:
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        yield store


@pytest.fixture
async def connection(source_dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(source_dsn)
    yield connection
    await connection.close()


def notes(note: UUID, count: int = 1) -> list[Noted]:
    return [Noted(aggregate_id=note, text=str(n)) for n in range(count)]


@pytest.mark.parametrize("count", [1, 50])
async def test_an_append_is_one_statement_without_a_transaction_around_it(
    store: PostgreSQLEventStore, connection: Connection, count: int
) -> None:
    note = uuid4()
    await store.append_events(note, "Note", notes(note), 0, connection=connection)
    queries: list[str] = []
    with connection.query_logger(lambda record: queries.append(record.query)):
        await store.append_events(note, "Note", notes(note, count), 1, connection=connection)
        await asyncio.sleep(0)
    assert len(queries) == 1


async def test_an_append_joins_the_transaction_of_the_caller(
    store: PostgreSQLEventStore, connection: Connection
) -> None:
    note = uuid4()
    transaction = connection.transaction()
    await transaction.start()
    await store.append_events(note, "Note", notes(note), 0, connection=connection)
    assert await store.get_stream_version(note) == 0
    await transaction.rollback()
    assert await store.get_stream_version(note) == 0
    async with connection.transaction():
        await store.append_events(note, "Note", notes(note), 0, connection=connection)
        await store.append_events(note, "Note", notes(note), 1, connection=connection)
    assert await store.get_stream_version(note) == 2


@pytest.mark.parametrize("expected", [0, 1])
async def test_a_conflict_leaves_the_transaction_of_the_caller_usable(
    store: PostgreSQLEventStore, connection: Connection, expected: int
) -> None:
    """Expecting 0 fails by comparison, expecting 1 by the constraint, against an open append."""
    note, other = uuid4(), uuid4()
    await store.append_events(note, "Note", notes(note), 0)
    rival = await store.pool.acquire()
    await rival.execute("begin")
    await store.append_events(note, "Note", notes(note), 1, connection=rival)
    await connection.execute("begin")
    await store.append_events(other, "Note", notes(other), 0, connection=connection)
    losing = asyncio.create_task(
        store.append_events(note, "Note", notes(note), expected, connection=connection)
    )
    if expected == 1:
        await until_somebody_waits(store)
    await rival.execute("commit")
    await store.pool.release(rival)
    with pytest.raises(OptimisticLockError) as caught:
        await losing
    assert caught.value.actual_version in (1, 2)
    await connection.execute("commit")
    assert await store.get_stream_version(other) == 1


async def until_somebody_waits(store: PostgreSQLEventStore) -> None:
    """Until a session of the database waits for another one's lock."""
    waiting = (
        "select count(*) from pg_stat_activity "
        "where wait_event_type = 'Lock' and datname = current_database()"
    )
    for _ in range(2000):
        if await store.pool.fetchval(waiting):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nobody waits for a lock")


async def test_a_retry_after_a_lost_reply_is_a_success(
    store: PostgreSQLEventStore, connection: Connection
) -> None:
    """The first attempt is still in flight, so the retry meets it in the constraint."""
    note = uuid4()
    events = notes(note, 3)
    await connection.execute("begin")
    first = await store.append_events(note, "Note", events, 0, connection=connection)
    retry = asyncio.create_task(store.append_events(note, "Note", events, 0))
    await until_somebody_waits(store)
    await connection.execute("commit")
    assert await retry == first


async def test_a_retry_wins_when_the_first_attempt_never_commits(
    store: PostgreSQLEventStore, connection: Connection
) -> None:
    note = uuid4()
    events = notes(note, 3)
    await connection.execute("begin")
    await store.append_events(note, "Note", events, 0, connection=connection)
    retry = asyncio.create_task(store.append_events(note, "Note", events, 0))
    await until_somebody_waits(store)
    await connection.execute("rollback")
    assert (await retry).new_version == 3


async def test_appends_that_expect_nothing_survive_contention(store: PostgreSQLEventStore) -> None:
    note = uuid4()

    async def write() -> None:
        for _ in range(20):
            await store.append_events(note, "Note", notes(note, 2), ExpectedVersion.ANY)

    await asyncio.gather(*(write() for _ in range(8)))
    rows = [row async for row in store.read_stream(note)]
    assert [row.version for row in rows] == list(range(1, 321))
    positions = [row.global_position for row in rows]
    assert positions == sorted(positions)


async def test_a_constraint_of_the_application_is_no_version_conflict(
    store: PostgreSQLEventStore,
) -> None:
    await store.pool.execute("create unique index one_text on events ((payload ->> 'text'))")
    first, second = uuid4(), uuid4()
    await store.append_events(first, "Note", notes(first), 0)
    for expected in (0, ExpectedVersion.ANY):
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            await store.append_events(second, "Note", notes(second), expected)
        assert caught.value.constraint_name == "one_text"


async def test_an_id_of_another_stream_is_found_whatever_is_expected(
    store: PostgreSQLEventStore,
) -> None:
    first, second = uuid4(), uuid4()
    (event,) = notes(first)
    await store.append_events(first, "Note", [event], 0)
    stolen = event.model_copy(update={"aggregate_id": second})
    for expected in (0, 4, ExpectedVersion.ANY):
        with pytest.raises(EventIdTakenError, match="another stream"):
            await store.append_events(second, "Note", [stolen], expected)


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_under_a_frozen_snapshot_a_conflict_is_still_a_conflict(
    store: PostgreSQLEventStore, connection: Connection, isolation: str
) -> None:
    note = uuid4()
    async with connection.transaction(isolation=isolation):  # type: ignore[arg-type]
        await connection.fetchval("select count(*) from events")
        await store.append_events(note, "Note", notes(note), 0)
        for expected in (0, ExpectedVersion.ANY):
            with pytest.raises((OptimisticLockError, asyncpg.SerializationError)):
                await store.append_events(
                    note, "Note", notes(note), expected, connection=connection
                )


async def test_a_lock_timeout_arrives_unchanged(
    store: PostgreSQLEventStore, connection: Connection
) -> None:
    await connection.execute("begin; lock table events in exclusive mode")
    async with store.pool.acquire() as writer:
        await writer.execute("set lock_timeout = 50")
        note = uuid4()
        with pytest.raises(asyncpg.LockNotAvailableError):
            await store.append_events(note, "Note", notes(note), 0, connection=writer)


async def test_the_top_level_transaction_is_recorded_also_behind_a_savepoint(
    store: PostgreSQLEventStore, connection: Connection
) -> None:
    note = uuid4()
    async with connection.transaction():
        mine = await connection.fetchval("select pg_current_xact_id()::text")
        await store.append_events(note, "Note", notes(note), 0, connection=connection)
    assert await connection.fetchval("select transaction_id::text from events") == mine


async def test_warming_up_opens_connections_with_the_append_prepared_and_stores_nothing(
    store: PostgreSQLEventStore,
) -> None:
    await store.warm_up(4)
    assert store.pool.get_size() == 4
    for _ in range(4):
        async with store.pool.acquire() as pooled:
            prepared = await pooled.fetch("select statement from pg_prepared_statements")
            assert any("insert into" in row["statement"] for row in prepared)
    assert await store.pool.fetchval("select count(*) from events") == 0
    await store.warm_up(100)
    assert store.pool.get_size() == store.pool.get_max_size()
