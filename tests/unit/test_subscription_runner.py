"""The runner delivers every event at least once and in order, and never saves ahead of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource import DomainEvent, ExpectedVersion, register_event
from eventsource.stores.interface import StoredEvent
from eventsource.stores.memory import InMemoryEventStore
from eventsource.subscriptions import InMemoryCheckpointRepository, Subscription, runner
from tests.support.waiting import until

TENANT, OTHER = uuid4(), uuid4()


@register_event
class RunnerTested(DomainEvent):
    aggregate_type: str = "RunnerTest"
    number: int


class Received:
    """Keeps what it is given; fails once at a number, waits at another, until told to go on."""

    def __init__(self, *, fail_at: int | None = None, wait_at: int | None = None) -> None:
        self.numbers: list[int] = []
        self.fail_at = fail_at
        self.wait_at = wait_at
        self.delivered = asyncio.Event()
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, event: StoredEvent) -> None:
        number = event.payload["number"]
        if number == self.fail_at:
            self.fail_at = None
            raise LookupError(f"read model has no row {number}")
        if number == self.wait_at:
            self.reached.set()
            await self.go_on.wait()
        self.numbers.append(number)
        self.delivered.set()


async def append(store: InMemoryEventStore, *numbers: int, tenant: UUID = TENANT) -> None:
    for number in numbers:
        aggregate = uuid4()
        event = RunnerTested(aggregate_id=aggregate, tenant_id=tenant, number=number)
        await store.append_events(
            aggregate, "RunnerTest", [event], expected_version=ExpectedVersion.NO_STREAM
        )


@pytest.fixture
def store() -> InMemoryEventStore:
    return InMemoryEventStore()


@pytest.fixture
def checkpoints() -> InMemoryCheckpointRepository:
    return InMemoryCheckpointRepository()


async def test_one_run_delivers_one_batch_and_saves_its_end(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1, 2, 3, 4, 5)
    received = Received()
    subscription = Subscription("s", store, "shared", checkpoints, received, batch_size=2)
    assert await subscription.position() == 0
    assert [await subscription.run_once() for _ in range(4)] == [2, 2, 1, 0]
    assert received.numbers == [1, 2, 3, 4, 5]
    assert await subscription.position() == await store.get_global_position()


async def test_another_runner_carries_on_where_the_checkpoint_is(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1, 2, 3)
    await Subscription("s", store, "shared", checkpoints, Received(), batch_size=2).run_once()
    received = Received()
    assert await Subscription("s", store, "shared", checkpoints, received).catch_up() == 1
    assert received.numbers == [3]


async def test_catching_up_ends_although_writers_go_on(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    async def answered(event: StoredEvent) -> None:
        assert event.payload["number"] < 3
        await append(store, event.payload["number"] + 1)

    await append(store, 1, 1, 1)
    assert await Subscription("s", store, "shared", checkpoints, answered).catch_up() == 3


async def test_a_tenants_subscription_reads_that_tenant_with_a_checkpoint_of_its_own(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1)
    await append(store, 2, tenant=OTHER)
    await append(store, 3)
    received = Received()
    await Subscription("s", store, "shared", checkpoints, received, tenant_id=TENANT).catch_up()
    assert received.numbers == [1, 3]
    assert await checkpoints.get("s", "shared") is None
    everyone = Received()
    await Subscription("s", store, "shared", checkpoints, everyone).catch_up()
    assert everyone.numbers == [1, 2, 3]


async def test_an_error_of_the_handler_comes_through_and_the_batch_is_delivered_again(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1, 2, 3, 4)
    received = Received(fail_at=4)
    subscription = Subscription("s", store, "shared", checkpoints, received, batch_size=2)
    with pytest.raises(LookupError, match="no row 4"):
        await subscription.run()
    assert await subscription.position() == 2
    await subscription.catch_up()
    assert received.numbers == [1, 2, 3, 3, 4]


async def test_run_delivers_what_is_appended_later_and_stop_ends_it_behind_the_batch(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1)
    received = Received(wait_at=2)
    subscription = Subscription(
        "s", store, "shared", checkpoints, received, batch_size=10, poll_interval=0.001
    )
    running = asyncio.create_task(subscription.run())
    await received.delivered.wait()
    await append(store, 2, 3)
    await received.reached.wait()
    subscription.stop()
    received.go_on.set()
    await running
    assert received.numbers[:2] == [1, 2]
    assert await subscription.position() == len(received.numbers)
    # It can be started again.
    await subscription.catch_up()
    assert received.numbers == [1, 2, 3]


async def test_it_runs_again_and_pauses_only_where_nothing_more_was_there(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    received = Received()
    subscription = Subscription(
        "s", store, "shared", checkpoints, received, batch_size=1, poll_interval=60
    )
    for first in (1, 4):
        await append(store, first, first + 1, first + 2)
        running = asyncio.create_task(subscription.run())

        async def all_there(last: int = first + 2) -> bool:
            return received.numbers[-1:] == [last]

        await until(all_there, "what three looks deliver", 5)
        subscription.stop()
        await running
    assert received.numbers == [1, 2, 3, 4, 5, 6]


async def test_stop_wakes_a_runner_that_waits_for_the_next_poll(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1)
    received = Received()
    subscription = Subscription("s", store, "shared", checkpoints, received, poll_interval=3600)
    running = asyncio.create_task(subscription.run())
    # Nothing here suspends but the wait for the next poll, so that is where the runner is.
    await received.delivered.wait()
    subscription.stop()
    async with asyncio.timeout(5):
        await running


async def test_cancelling_in_a_batch_leaves_the_checkpoint_before_it(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1, 2, 3, 4)
    received = Received(wait_at=4)
    subscription = Subscription("s", store, "shared", checkpoints, received, batch_size=2)
    running = asyncio.create_task(subscription.run())
    await received.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await subscription.position() == 2
    received.go_on.set()
    await subscription.catch_up()
    assert received.numbers == [1, 2, 3, 3, 4]


async def test_moving_the_checkpoint_by_force_replays(
    store: InMemoryEventStore, checkpoints: InMemoryCheckpointRepository
) -> None:
    await append(store, 1, 2)
    received = Received()
    subscription = Subscription("s", store, "shared", checkpoints, received)
    await subscription.catch_up()
    await checkpoints.save("s", "shared", 0, force=True)
    await subscription.catch_up()
    assert received.numbers == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "a name"),
        ({"store_id": ""}, "id of its store"),
        ({"batch_size": 0}, "batch_size"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"poll_interval": float("nan")}, "poll_interval"),
    ],
)
async def test_absurd_arguments_are_refused(
    store: InMemoryEventStore,
    checkpoints: InMemoryCheckpointRepository,
    change: dict[str, object],
    message: str,
) -> None:
    arguments = {
        "name": "s",
        "store": store,
        "store_id": "shared",
        "checkpoint_repo": checkpoints,
        "handler": Received(),
    }
    with pytest.raises(ValueError, match=message):
        Subscription(**{**arguments, **change})  # type: ignore[arg-type]


async def test_news_is_looked_at_once_and_never_missed(
    store: InMemoryEventStore,
    checkpoints: InMemoryCheckpointRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each wakes one look; what comes during a look is found by the next one, and not when due."""
    wakes: list[Callable[[], None]] = []

    @contextlib.asynccontextmanager
    async def hearing(_: object, wake: Callable[[], None]) -> AsyncIterator[None]:
        wakes.append(wake)
        yield

    looks = 0
    save = checkpoints.save_if_absent

    async def look(*key: Any, **options: Any) -> object:
        nonlocal looks
        looks += 1
        assert looks < 9
        if looks == 3:
            wakes[0]()
        return await save(*key, **options)

    monkeypatch.setattr(runner, "hearing", hearing)
    # Where nothing was found a subscription over all tenants says so with each look.
    monkeypatch.setattr(checkpoints, "get", lambda *key: asyncio.sleep(0))
    monkeypatch.setattr(checkpoints, "save_if_absent", look)
    subscription = Subscription("s", store, "shared", checkpoints, Received(), poll_interval=60)
    running = asyncio.create_task(subscription.run())
    for expected in (1, 2, 4):

        async def looked(least: int = expected) -> bool:
            return looks >= least

        await until(looked, "the look", 5)
        await asyncio.sleep(0.05)
        assert looks == expected
        wakes[0]()
    subscription.stop()
    await running
