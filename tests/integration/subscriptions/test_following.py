"""A router's subscription follows its tenants: there, back, and while it was not running."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource.errors import HandlerError
from eventsource.migration import TenantSubscription
from eventsource.stores.interface import StoredEvent
from eventsource.subscriptions import PostgreSQLCheckpointRepository, Subscription
from tests.support.application import SOURCE, TARGET, writing
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table


class Projection:
    """Remembers what it was given, and in which order per stream."""

    def __init__(self, world: World, checkpoints: PostgreSQLCheckpointRepository) -> None:
        self.world, self.checkpoints = world, checkpoints
        self.deliveries: Counter[UUID] = Counter()
        self.order: dict[UUID | None, list[UUID]] = {}

    async def handle(self, event: StoredEvent) -> None:
        await asyncio.sleep(0)
        self.deliveries[event.event_id] += 1
        if self.deliveries[event.event_id] == 1:
            self.order.setdefault(event.tenant_id, []).append(event.event_id)

    def subscription(self, tenants: list[UUID] | None = None) -> TenantSubscription:
        """Another process would make the same."""
        return self.world.router.subscription(
            "Revenue", self.checkpoints, self.handle, tenants, batch_size=7, poll_interval=0.05
        )

    @property
    def repeated(self) -> int:
        return self.deliveries.total() - len(self.deliveries)


@pytest.fixture
async def projection(world: World) -> Projection:
    checkpoints = PostgreSQLCheckpointRepository(world.here.control_pool)
    await checkpoints.create_schema()
    return Projection(world, checkpoints)


async def move(world: World) -> None:
    """As `World.migrate`, with a way back."""
    migration = await world.dual_write()
    await world.coordinator.set_keep_way_back(migration.id, 3600)
    await world.coordinator.initiate_cutover(migration.id, force=True)


async def returned(world: World) -> None:
    [past] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    await world.coordinator.return_migration(past.id)


async def copied_back(world: World) -> None:
    """By a move of its own: its old rows are gone, and all get positions of another block."""
    [past] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    await world.coordinator.close_way_back(past.id)
    await world.coordinator.cleanup(past.id, backed_up=True, now=True)
    here = world.here
    migration = await world.coordinator.start_migration(
        world.tenant, here.target, here.source, TARGET, SOURCE
    )
    migration = await world.reach(migration, "dual_write")
    await world.coordinator.initiate_cutover(migration.id, force=True)


@pytest.mark.parametrize("alone", [False, True], ids=["all", "tenants"])
async def test_it_follows_there_and_back_under_writers(
    world: World, projection: Projection, alone: bool
) -> None:
    await world.seed(30)
    await world.seed(20, world.other)
    await world.seed(15, world.other, side="target")
    resident = uuid4()
    await world.here.routes.set_routing(resident, TARGET)
    subscription = projection.subscription([world.tenant] if alone else None)
    running = asyncio.create_task(subscription.run())
    # The resident's events take the feed of the target past the positions of the arriving ones.
    async with (
        writing(world.here, world.tenant, 2),
        writing(world.here, world.other, 1),
        writing(world.here, resident, 1),
    ):
        await asyncio.sleep(0.1)
        await move(world)
        await asyncio.sleep(0.1)
        await returned(world)
        await asyncio.sleep(0.1)
    expected = await world.ids("source")
    newcomer = uuid4()
    await world.here.routes.set_routing(newcomer, TARGET)
    await world.here.append(newcomer)
    others = set() if alone else {*await world.ids("source", world.other)}
    for tenant in (newcomer, resident):
        others |= set() if alone else {*await world.ids("target", tenant)}

    async def complete() -> bool:
        if running.done():
            running.result()
        return {*expected, *others} <= projection.deliveries.keys()

    await until(complete, "every event")
    subscription.stop()
    await asyncio.wait_for(running, 10)
    assert projection.order[world.tenant] == expected
    assert projection.repeated == 0
    if alone:
        assert projection.order.keys() == {world.tenant}
    assert await projection.subscription([world.tenant] if alone else None).catch_up() >= 0
    assert projection.repeated == 0


@pytest.mark.parametrize("back", [returned, copied_back])
async def test_moves_that_it_did_not_see_are_followed_from_its_checkpoints(
    world: World, projection: Projection, back: Callable[[World], Awaitable[None]]
) -> None:
    await world.seed(10)
    await world.seed(10, world.other)
    await world.seed(25, world.other, side="target")
    await projection.subscription().catch_up()
    for _ in range(3):
        await world.here.append(world.tenant, count=2)
    await move(world)
    for _ in range(2):
        await world.here.append(world.tenant, count=2)
        await world.here.append(world.other)
    await projection.subscription().catch_up()
    assert projection.order[world.tenant] == await world.ids("target")
    await world.here.append(world.tenant, count=2)
    await back(world)
    await world.here.append(world.tenant, count=2)
    await projection.subscription().catch_up()
    assert projection.order[world.tenant] == await world.ids("source")
    assert projection.repeated == 0
    assert await projection.subscription().catch_up() == 0


async def test_a_subscription_that_comes_after_the_move_gets_the_past_once(
    world: World, projection: Projection
) -> None:
    await world.seed(20)
    await world.migrate()
    await world.here.append(world.tenant, count=3)
    await projection.subscription().catch_up()
    assert projection.order[world.tenant] == await world.ids("target")
    assert projection.repeated == 0


@pytest.mark.parametrize("alone", [False, True], ids=["all", "tenants"])
@pytest.mark.parametrize("says", ["an older route", "no route"])
async def test_it_stays_where_the_tenant_lives_when_the_control_database_goes_back(
    world: World, projection: Projection, alone: bool, says: str
) -> None:
    await world.seed(10)
    subscription = projection.subscription([world.tenant] if alone else None)
    await world.migrate()
    await world.here.append(world.tenant, count=2)
    await subscription.catch_up()
    if says == "no route":
        await world.control.execute("delete from tenant_routing")
    else:
        await world.control.execute(
            "update tenant_routing set store_id = $1, generation = 0, migration_id = null", SOURCE
        )
    await world.here.append(world.tenant, count=2)
    await subscription.catch_up()
    assert projection.order[world.tenant] == await world.ids("target")
    assert projection.repeated == 0


async def test_it_takes_over_from_a_subscription_over_the_whole_store(
    world: World, projection: Projection
) -> None:
    await world.seed(10)
    await world.seed(10, world.other)
    before = Subscription(
        "Revenue", world.here.source, SOURCE, projection.checkpoints, projection.handle
    )
    await before.catch_up()
    await world.here.append(world.tenant, count=2)
    await world.migrate()
    await world.here.append(world.tenant, count=2)
    await projection.subscription().catch_up()
    assert projection.order[world.tenant] == await world.ids("target")
    assert projection.repeated == 0


async def test_what_was_handled_and_not_checkpointed_comes_again_and_nothing_else(
    world: World, projection: Projection
) -> None:
    await world.seed(20)
    await world.migrate()
    await world.here.append(world.tenant, count=3)
    handle, left = projection.handle, 10

    async def fails(event: StoredEvent) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ZeroDivisionError
        await handle(event)

    projection.handle = fails  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await projection.subscription().catch_up()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(projection.subscription().run(), 10)
    projection.handle = handle  # type: ignore[method-assign]
    await projection.subscription().catch_up()
    assert projection.order[world.tenant] == await world.ids("target")
    assert projection.repeated == 3, "of the second batch of seven"


async def test_a_store_that_is_away_does_not_hold_up_the_others(
    world: World,
    projection: Projection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "eventsource.subscriptions")
    await world.migrate()
    away = True
    there = world.here.target.read_all

    def read_all(*args: Any, **kwargs: Any) -> AsyncIterator[StoredEvent]:
        if away:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        return there(*args, **kwargs)

    monkeypatch.setattr(world.here.target, "read_all", read_all)
    running = asyncio.create_task(projection.subscription().run())
    await world.here.append(world.tenant, count=3)
    await world.here.append(world.other, count=3)

    async def delivered(tenant: UUID) -> bool:
        return len(projection.order.get(tenant, ())) == 3

    await until(lambda: delivered(world.other), "the events of the other store")
    assert world.tenant not in projection.order
    await asyncio.sleep(0.5)
    away = False
    await until(lambda: delivered(world.tenant), "the events of the store that is back")

    async def levels() -> list[int]:
        return [r.levelno for r in caplog.records if f"store {TARGET!r}" in r.getMessage()]

    async def is_back() -> bool:
        return await levels() == [logging.WARNING, logging.INFO]

    await until(is_back, "one line when it is lost and one when it is back")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_tenant_whose_store_is_closed_again_does_not_join_the_feed(
    world: World, projection: Projection
) -> None:
    """A store that was put back shows nothing of the tenant until a driver has mended it. Once
    that was taken for all of it: the feed passed what came when it was open, and that was lost."""
    await world.seed(20)
    await world.migrate()
    fence = "update eventsource_fences set state = $1 where role = 'target'"
    await world.target.execute(fence, "closed")
    running = asyncio.create_task(projection.subscription().run())
    for _ in range(3):
        await insert(world.target, uuid4(), side="target")
    last = await world.target.fetchval(f"select max(global_position) from {table('target')}")

    async def passed() -> bool:
        found = await projection.checkpoints.get("Revenue", TARGET)
        return found is not None and found.position == last

    await until(passed, "the feed to pass the tenant's events")
    await asyncio.sleep(0.3)
    await world.target.execute(fence, "open")
    await world.here.append(world.tenant)
    there = await world.ids("target")
    await until(lambda: _delivered(projection, there[-1]), "the event that is new")
    assert projection.order[world.tenant] == there
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def _delivered(projection: Projection, event: UUID) -> bool:
    return event in projection.deliveries


async def ends_cancelled() -> None:
    raise asyncio.CancelledError


async def awaits_what_was_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def has_tasks_that_fail() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail(KeyError("a field")))
        group.create_task(fail(ValueError("another")))


async def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("of_the_router", [True, False], ids=["router", "store"])
@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (ends_cancelled, RuntimeError),
        (awaits_what_was_cancelled, RuntimeError),
        (has_tasks_that_fail, ExceptionGroup),
    ],
)
async def test_a_handler_that_ends_oddly_ends_run_with_its_whole_error(
    world: World,
    projection: Projection,
    broken: Callable[[], Awaitable[None]],
    kind: type[Exception],
    of_the_router: bool,
) -> None:
    async def handle(event: StoredEvent) -> None:
        await broken()

    await world.here.append(world.tenant)
    subscription: TenantSubscription | Subscription
    if of_the_router:
        subscription = world.router.subscription("Odd", projection.checkpoints, handle)
    else:
        subscription = Subscription(
            "Odd", world.here.source, SOURCE, projection.checkpoints, handle
        )
    with pytest.raises(kind) as caught:
        await asyncio.wait_for(subscription.run(), 10)
    [note] = caught.value.__notes__
    assert "mend the handler" in note
    if isinstance(caught.value, ExceptionGroup):
        assert [type(each) for each in caught.value.exceptions] == [KeyError, ValueError]


@pytest.mark.parametrize("broken", [ends_cancelled, awaits_what_was_cancelled])
async def test_on_error_hears_of_a_handler_that_ended_cancelled(
    world: World, projection: Projection, broken: Callable[[], Awaitable[None]]
) -> None:
    given: list[HandlerError] = []

    async def handle(event: StoredEvent) -> None:
        await broken()

    async def keep(error: HandlerError) -> None:
        given.append(error)

    await world.here.append(world.tenant, count=3)
    subscription = world.router.subscription(
        "Odd", projection.checkpoints, handle, on_error=keep
    )  # fmt: skip
    assert await subscription.catch_up() == 3
    assert [type(each.__cause__) for each in given] == [RuntimeError] * 3
