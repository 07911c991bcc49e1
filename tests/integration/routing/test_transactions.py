"""Transactions at a tenant's home: events and the block's own rows are stored together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource import OptimisticLockError
from eventsource.migration import RoutingError, TenantTransaction
from eventsource.stores.memory import InMemoryEventStore
from tests.integration.routing.test_router import ever_deaf
from tests.support.application import SOURCE, TARGET, Noted
from tests.support.worlds.three_databases import World

OUTBOX = "create table outbox (event_id uuid primary key, store_id text)"


@pytest.fixture
async def boxed(world: World) -> World:
    for side in (world.source, world.target):
        await side.execute(OUTBOX)
    return world


class Work:
    """Appends one event to a stream of its own, and notes it in the outbox of the same store."""

    def __init__(self, tenant: UUID) -> None:
        self.event = Noted(aggregate_id=uuid4(), tenant_id=tenant)
        self.seen: list[str] = []

    async def append(self, made: TenantTransaction) -> None:
        await made.append_events(self.event.aggregate_id, "Note", [self.event], 0)

    async def note(self, made: TenantTransaction) -> None:
        await made.connection.execute(
            "insert into outbox values ($1, $2)", self.event.event_id, made.store_id
        )

    async def __call__(self, made: TenantTransaction) -> UUID:
        self.seen.append(made.store_id)
        await self.note(made)
        await self.append(made)
        return self.event.event_id


class Swallows(Work):
    async def append(self, made: TenantTransaction) -> None:
        try:
            await super().append(made)
        except asyncpg.PostgresError:
            return


class Wraps(Work):
    async def append(self, made: TenantTransaction) -> None:
        try:
            await super().append(made)
        except asyncpg.PostgresError as error:
            raise RuntimeError("it did not work") from error


class WritesBySQL(Work):
    async def append(self, made: TenantTransaction) -> None:
        await made.connection.execute(
            f"insert into {made.store.table} (event_id, aggregate_id, aggregate_type, event_type,"
            " tenant_id, version, timestamp, payload)"
            " values ($1, $2, 'Note', 'world.noted', $3, 1, now(), '{}')",
            self.event.event_id, self.event.aggregate_id, made.tenant_id,
        )  # fmt: skip


class AppendsNothing(Work):
    async def append(self, made: TenantTransaction) -> None:
        return


async def outbox(world: World, side: str) -> list[tuple[UUID, str]]:
    rows = await getattr(world, side).fetch("select event_id, store_id from outbox")
    return [tuple(row) for row in rows]


async def test_events_and_rows_are_stored_together_or_not_at_all(boxed: World) -> None:
    work = Work(boxed.tenant)
    assert await boxed.router.transaction(boxed.tenant, work) == work.event.event_id
    assert await outbox(boxed, "source") == [(work.event.event_id, SOURCE)]
    assert await boxed.ids("source") == [work.event.event_id]

    async def fails(made: TenantTransaction) -> None:
        await Work(boxed.tenant)(made)
        raise ZeroDivisionError

    async def conflicts(made: TenantTransaction) -> None:
        await Work(boxed.tenant).note(made)
        late = work.event.model_copy(update={"event_id": uuid4()})
        await made.append_events(late.aggregate_id, "Note", [late], 0)

    async def of_another(made: TenantTransaction) -> None:
        await Work(boxed.other).append(made)

    expected: list[tuple[Callable[[TenantTransaction], Awaitable[None]], type[Exception]]] = [
        (fails, ZeroDivisionError),
        (conflicts, OptimisticLockError),
        (of_another, ValueError),
    ]
    for block, error in expected:
        with pytest.raises(error):
            await boxed.router.transaction(boxed.tenant, block)
    assert len(await outbox(boxed, "source")) == len(await boxed.ids("source")) == 1


@pytest.mark.parametrize("kind", [Work, Swallows, Wraps, WritesBySQL, AppendsNothing])
async def test_a_block_runs_again_where_the_tenant_has_moved(
    boxed: World, kind: type[Work]
) -> None:
    elsewhere = await boxed.process()
    await elsewhere.append(boxed.tenant)
    await ever_deaf(elsewhere, boxed.tenant)
    await boxed.migrate()
    work = kind(boxed.tenant)
    await elsewhere.router.transaction(boxed.tenant, work)
    assert work.seen == [SOURCE, TARGET]
    assert await outbox(boxed, "source") == []
    assert await outbox(boxed, "target") == [(work.event.event_id, TARGET)]
    appended = 0 if kind is AppendsNothing else 1
    assert len(await boxed.ids("target")) == 1 + appended


@pytest.mark.parametrize("refused_append", ["first", "last"])
async def test_a_block_that_goes_on_after_a_refusal_stores_none_of_what_it_did(
    boxed: World, refused_append: str
) -> None:
    """Its other append went through, so the fence would not be asked before the commit."""
    held, work = uuid4(), Work(boxed.tenant)

    async def append_to(stream: UUID, connection: asyncpg.Connection) -> None:
        event = Noted(aggregate_id=stream, tenant_id=boxed.tenant)
        await boxed.here.source.append_events(stream, "Note", [event], 0, connection=connection)

    async def is_refused(made: TenantTransaction) -> None:
        await made.connection.execute("set local lock_timeout = '50ms'")
        event = Noted(aggregate_id=held, tenant_id=boxed.tenant)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await made.append_events(held, "Note", [event], 0)

    async def block(made: TenantTransaction) -> None:
        if refused_append == "first":
            await is_refused(made)
        await work(made)
        if refused_append == "last":
            await is_refused(made)

    writer = await boxed.connect()
    async with writer.transaction():
        await append_to(held, writer)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await boxed.router.transaction(boxed.tenant, block)
    assert work.seen == [SOURCE]
    assert await outbox(boxed, "source") == []
    assert len(await boxed.ids("source")) == 1


async def test_transactions_go_on_through_a_move(boxed: World) -> None:
    works: list[Work] = []
    enough = asyncio.Event()

    async def write() -> None:
        while not enough.is_set():
            works.append(Work(boxed.tenant))
            await boxed.router.transaction(boxed.tenant, works[-1])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(write())
        await asyncio.sleep(0.2)
        await boxed.migrate()
        await asyncio.sleep(0.2)
        enough.set()
    left = dict(await outbox(boxed, "source"))
    arrived = dict(await outbox(boxed, "target"))
    assert set(left.values()) == {SOURCE}
    assert set(arrived.values()) == {TARGET}
    assert left.keys().isdisjoint(arrived)
    assert left.keys() == set(await boxed.ids("source"))
    assert left.keys() | arrived.keys() == set(await boxed.ids("target"))
    assert {work.event.event_id for work in works} == left.keys() | arrived.keys()
    assert boxed.router.dual_write_stats(boxed.tenant) is None


async def test_a_store_without_transactions_is_named(world: World) -> None:
    world.router.stores[SOURCE] = InMemoryEventStore()
    with pytest.raises(RoutingError, match="has no transactions; make it a PostgreSQLEventStore"):
        await world.router.transaction(world.tenant, Work(world.tenant))
