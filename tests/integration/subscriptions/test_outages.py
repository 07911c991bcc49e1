"""A subscription outlives the restarts of its databases, and names what its handler failed on."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest

from eventsource.connections import connection_parameters
from eventsource.errors import HandlerError
from eventsource.stores.interface import StoredEvent
from eventsource.stores.memory import InMemoryEventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import (
    InMemoryCheckpointRepository,
    PostgreSQLCheckpointRepository,
    Subscription,
    outages,
)
from eventsource.subscriptions.delivery import Delivery
from eventsource.subscriptions.outages import DeliveryError
from eventsource.testing import Cluster
from tests.support.application import Noted
from tests.support.waiting import until

LOGGER = "eventsource.subscriptions"


@pytest.fixture(scope="module")
def fragile_cluster() -> Iterator[Cluster]:
    """A server that no other test uses, for it is restarted."""
    with Cluster.start(16) as cluster:
        yield cluster


async def append(store: PostgreSQLEventStore | InMemoryEventStore, count: int = 1) -> list[UUID]:
    stream, tenant = uuid4(), uuid4()
    events = [Noted(aggregate_id=stream, tenant_id=tenant, n=n) for n in range(1, count + 1)]
    await store.append_events(stream, "Note", events, 0)
    return [event.event_id for event in events]


@pytest.mark.parametrize("handler_writes", [False, True], ids=["reader", "handler"])
async def test_run_goes_on_after_restarts_with_one_warning_and_one_line_each(
    fragile_cluster: Cluster, caplog: pytest.LogCaptureFixture, handler_writes: bool
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    dsn = await fragile_cluster.create_database()
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool:
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        checkpoints = PostgreSQLCheckpointRepository(pool)
        await checkpoints.create_schema()
        await pool.execute("create table seen (event_id uuid primary key)")
        seen: set[UUID] = set()

        async def handle(event: StoredEvent) -> None:
            if handler_writes:
                await pool.execute(
                    "insert into seen values ($1) on conflict do nothing", event.event_id
                )
            seen.add(event.event_id)

        subscription = Subscription(
            "Revenue", store, "shared", checkpoints, handle, poll_interval=0.01
        )
        running = asyncio.create_task(subscription.run())
        for restart in range(1, 3):
            before = await append(store, 2)
            await until(_has(seen, before), "the events before the restart")
            # A crash: also a statement that is under way is cut off.
            await asyncio.to_thread(fragile_cluster.crash)
            await until(_logged(caplog, logging.WARNING, restart), "the warning")
            await asyncio.sleep(1)
            await asyncio.to_thread(fragile_cluster.restart)
            after = await until(lambda: _appended(store), "the server", timeout=60)
            await until(_has(seen, after), "the events after the restart", timeout=60)
            await until(_logged(caplog, logging.INFO, restart), "the line that says it is back")
        assert not running.done()
        subscription.stop()
        await running
    levels = [record.levelno for record in caplog.records if record.name == LOGGER]
    assert levels == [logging.WARNING, logging.INFO] * 2
    assert "'Revenue' over store 'shared'" in caplog.text


async def _appended(store: PostgreSQLEventStore) -> list[UUID] | None:
    try:
        return await append(store, 3)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None


def _has(seen: set[UUID], wanted: list[UUID]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return set(wanted) <= seen

    return look


def _logged(
    caplog: pytest.LogCaptureFixture, level: int, times: int
) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return [r.levelno for r in caplog.records if r.name == LOGGER].count(level) >= times

    return look


async def test_a_closed_pool_ends_run(source_dsn: str) -> None:
    pool = await asyncpg.create_pool(source_dsn, min_size=0, max_size=2)
    store = PostgreSQLEventStore(pool)
    await store.create_schema()
    subscription = Subscription(
        "Revenue", store, "shared", InMemoryCheckpointRepository(), _ignore, poll_interval=0.01
    )
    running = asyncio.create_task(subscription.run())
    await asyncio.sleep(0.05)
    await pool.close()
    with pytest.raises(asyncpg.InterfaceError, match="pool is clos"):
        await asyncio.wait_for(running, 10)


async def _ignore(event: StoredEvent) -> None:
    return


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a renamed field"),
        FileNotFoundError(errno.ENOENT, "no such file", "template.txt"),
        TimeoutError("the mail server is slow"),
        asyncpg.UniqueViolationError("duplicate key"),
        asyncpg.DeadlockDetectedError("deadlock"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_the_handler_comes_through_and_names_its_event(error: Exception) -> None:
    store = InMemoryEventStore()
    _, second = await append(store, 2)
    checkpoints = InMemoryCheckpointRepository()

    async def handle(event: StoredEvent) -> None:
        if event.event_id == second:
            raise error

    subscription = Subscription("Revenue", store, "shared", checkpoints, handle)
    with pytest.raises(type(error)) as caught:
        await asyncio.wait_for(subscription.run(), 10)
    assert caught.value is error
    [note] = error.__notes__
    assert str(second) in note
    assert "position 2 of store 'shared'" in note
    assert await subscription.position() == 0


async def test_on_error_decides_what_becomes_of_an_event() -> None:
    store = InMemoryEventStore()
    events = await append(store, 4)
    failed: list[HandlerError] = []
    handled: list[UUID] = []

    async def handle(event: StoredEvent) -> None:
        if event.global_position in (2, 4):
            raise ValueError(event.global_position)
        handled.append(event.event_id)

    async def keep(error: HandlerError) -> None:
        failed.append(error)
        if error.position == 4:
            raise error

    subscription = Subscription(
        "Revenue", store, "shared", InMemoryCheckpointRepository(), handle,
        batch_size=3, on_error=keep,
    )  # fmt: skip
    with pytest.raises(HandlerError, match=str(events[3])):
        await subscription.run()
    assert handled == [events[0], events[2]]
    assert [(error.event_id, error.position) for error in failed] == [
        (events[1], 2),
        (events[3], 4),
    ]
    assert isinstance(failed[0].__cause__, ValueError)
    assert (failed[0].subscription_name, failed[0].store_id) == ("Revenue", "shared")
    assert await subscription.position() == 3


@pytest.mark.parametrize(
    ("error", "is_outage"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), True),
        (FileNotFoundError(errno.ENOENT, "no socket"), True),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1)"), True),
        (OSError(errno.ENOSPC, "no space left"), False),
        (PermissionError(errno.EACCES, "denied", "read-model.json"), False),
        (asyncpg.CannotConnectNowError("starting up"), True),
        (asyncpg.AdminShutdownError("terminating"), True),
        (asyncpg.ConnectionDoesNotExistError("closed in the middle"), True),
        (asyncpg.QueryCanceledError("statement timeout"), False),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.InterfaceError("pool is closed"), False),
        (ExceptionGroup("of tasks", [asyncpg.AdminShutdownError("terminating")]), True),
        (ExceptionGroup("of tasks", [ConnectionResetError(), KeyError("field")]), False),
        (psycopg.OperationalError("the connection is closed"), True),
        (psycopg.errors.AdminShutdown("terminating"), True),
        (psycopg.errors.QueryCanceled("statement timeout"), False),
        (psycopg.errors.UniqueViolation("duplicate key"), False),
        (sqlite3.OperationalError("no such table: seen"), False),
    ],
)
def test_a_lost_connection_of_a_handler_is_not_taken_for_its_own_error(
    error: Exception, is_outage: bool
) -> None:
    assert outages.of_a_handler(error) is is_outage


class WrappedError(Exception):
    """As SQLAlchemy has the client's error: in ``orig``, and it says what it has noticed."""

    def __init__(self, orig: BaseException | None, connection_invalidated: bool = False) -> None:
        self.orig, self.connection_invalidated = orig, connection_invalidated


class OperationalError(Exception):
    """As Django raises it, from the client's."""


def test_a_lost_connection_is_found_within_the_error_of_a_library_above_the_client() -> None:
    assert outages.of_a_handler(WrappedError(psycopg.OperationalError("is closed")))
    assert outages.of_a_handler(WrappedError(None, connection_invalidated=True))
    assert not outages.of_a_handler(WrappedError(psycopg.errors.UniqueViolation("twice")))
    for cause, is_outage in ((psycopg.OperationalError("refused"), True), (KeyError("x"), False)):
        error = OperationalError()
        error.__cause__ = cause
        assert outages.of_a_handler(error) is is_outage
    own = ValueError("no total")
    own.__cause__ = psycopg.OperationalError("refused")
    assert not outages.of_a_handler(own)


async def test_each_outage_begins_with_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def pause(seconds: float, _: asyncio.Event) -> None:
        waits.append(seconds)

    monkeypatch.setattr(outages, "pause", pause)
    outage = outages.Outage("a reader")
    for _ in range(2):
        for _ in range(9):
            await outage.sit_out(ConnectionRefusedError(), asyncio.Event())
        outage.over()
    for first in (0, 9):
        assert waits[first] <= outages.FIRST_BACKOFF < waits[first + 2]
        assert outages.LONGEST_BACKOFF / 2 <= waits[first + 8] <= outages.LONGEST_BACKOFF


async def in_a_transaction(pool: asyncpg.Pool, end: Callable[[int], Awaitable[None]]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await end(connection.get_server_pid())
        await connection.execute("select 1")


async def in_a_task_group(pool: asyncpg.Pool, end: Callable[[int], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_a_transaction(pool, end))


async def over_psycopg(pool: asyncpg.Pool, end: Callable[[int], Awaitable[None]]) -> None:
    dsn = (await connection_parameters(pool)).dsn
    assert isinstance(dsn, str)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await end(connection.info.backend_pid)
        await connection.execute("select 1")


@pytest.mark.parametrize("write", [in_a_transaction, in_a_task_group, over_psycopg])
async def test_run_goes_on_after_a_handler_has_lost_its_connection_in_the_middle(
    source_dsn: str, write: Callable[[asyncpg.Pool, Callable[[int], Awaitable[None]]],
                                     Awaitable[None]],
) -> None:  # fmt: skip
    store, handled, ended = InMemoryEventStore(), set[UUID](), list[int]()
    events = await append(store, 4)
    async with asyncpg.create_pool(source_dsn, min_size=0, max_size=4) as pool:

        async def end(pid: int) -> None:
            if len(handled) == 2 and not ended:
                ended.append(pid)
                await pool.execute("select pg_terminate_backend($1, 5000)", pid)

        async def handle(event: StoredEvent) -> None:
            await write(pool, end)
            handled.add(event.event_id)

        subscription = Subscription("Revenue", store, "a", InMemoryCheckpointRepository(), handle)
        running = asyncio.create_task(subscription.run())
        await until(_has(handled, events), "the events after the lost connection")
        subscription.stop()
        await running
    assert len(ended) == 1


async def test_a_handler_that_never_opens_its_closed_connection_again_ends_run(
    source_dsn: str,
) -> None:
    store = InMemoryEventStore()
    await append(store, 2)
    connection = await asyncpg.connect(source_dsn)
    await connection.close()

    async def handle(event: StoredEvent) -> None:
        await connection.execute("select 1")

    subscription = Subscription("Revenue", store, "a", InMemoryCheckpointRepository(), handle)
    with pytest.raises(asyncpg.InterfaceError, match="connection is closed"):
        await asyncio.wait_for(subscription.run(), 20)


async def deliveries(*of_each: tuple[int, Exception | None]) -> list[bool | None]:
    """Of each delivery (event, what its handler raises) whether it is to come again."""
    store, now = InMemoryEventStore(), list[Exception | None]([None])
    await append(store, 2)
    events = [event async for event in store.read_all(0)]

    async def handle(_: StoredEvent) -> None:
        if now[0] is not None:
            raise now[0]

    delivery, found = Delivery("Revenue", "a", handle, None), list[bool | None]()
    for number, now[0] in of_each:
        try:
            await delivery.deliver(events[number])
            found.append(None)
        except DeliveryError as failed:
            found.append(failed.lost)
    return found


async def test_what_is_handled_before_it_does_not_make_a_closed_connection_come_again() -> None:
    """Each time the batch begins anew with an event whose handler needs no connection."""
    closed = asyncpg.InterfaceError("connection is closed")
    again = [(0, None), (1, closed)] * 4
    assert await deliveries(*again) == [None, True, None, True, None, True, None, False]
    opened = [(1, closed), (1, closed), (1, None)] * 3
    assert await deliveries(*opened) == [True, True, None] * 3


async def test_a_server_that_is_away_in_between_may_close_a_connection_again() -> None:
    closed, away = asyncpg.InterfaceError("connection is closed"), ConnectionRefusedError()
    assert all(await deliveries(*[(1, closed), (1, closed), (1, away)] * 3))
