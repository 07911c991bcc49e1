"""Appends of other processes are heard: a subscription does not wait for its next look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from eventsource.stores.interface import StoredEvent
from eventsource.subscriptions import InMemoryCheckpointRepository, Subscription
from eventsource.subscriptions.hearing import APPLICATION, CHANNEL
from tests.support.application import SOURCE
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert

#: So long that nothing but news makes it look.
NEVER = 600.0


@asynccontextmanager
async def subscribed(world: World, kind: str) -> AsyncIterator[list[UUID]]:
    """A subscription that looks once and then listens; what it was given."""
    given: list[UUID] = []

    async def handle(event: StoredEvent) -> None:
        given.append(event.event_id)

    checkpoints = InMemoryCheckpointRepository()
    if kind == "router":
        made = world.router.subscription("R", checkpoints, handle, poll_interval=NEVER)
        running = asyncio.create_task(made.run())
    else:
        store = world.here.source
        one = Subscription("S", store, SOURCE, checkpoints, handle, poll_interval=NEVER)
        running = asyncio.create_task(one.run())
    try:
        await until(lambda: listeners(world, 1), "the listening session")
        await asyncio.sleep(0.3)  # and its first look
        yield given
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def listeners(world: World, wanted: int) -> bool:
    found = await world.source.fetchval(
        "select count(*) from pg_stat_activity where application_name = $1"
        " and datname = current_database()",
        APPLICATION,
    )
    return bool(found >= wanted)


@pytest.mark.parametrize("kind", ["router", "store"])
async def test_what_another_process_appends_is_delivered_at_once(world: World, kind: str) -> None:
    other = await world.process()
    async with subscribed(world, kind) as given:
        for number in range(1, 4):
            began = time.monotonic()
            await other.append(world.tenant)

            async def delivered(wanted: int = number) -> bool:
                return len(given) == wanted

            await until(delivered, "the event")
            assert time.monotonic() - began < 5


async def test_many_appends_are_announced_a_few_times(world: World) -> None:
    other = await world.process()
    heard: list[str] = []
    listener = await world.connect("source", application_name=APPLICATION)
    await listener.add_listener(CHANNEL, lambda *news: heard.append(str(news[3])))
    began = time.monotonic()
    for _ in range(60):
        await other.append(world.tenant)
    await until(lambda: _some(heard), "an announcement")
    assert len(heard) <= 3 + (time.monotonic() - began) / 0.05
    assert set(heard) == {"public.events"}


async def _some(heard: list[str]) -> bool:
    return bool(heard)


async def test_nothing_is_announced_while_nobody_listens(world: World) -> None:
    other = await world.process()
    heard: list[object] = []
    quiet = await world.connect("source")  # it hears, and does not say that it does
    await quiet.add_listener(CHANNEL, lambda *news: heard.append(news))
    for _ in range(5):
        await other.append(world.tenant)
        await asyncio.sleep(0.1)
    assert heard == []


async def test_a_writer_without_a_router_is_found_by_the_next_look(world: World) -> None:
    given: list[UUID] = []

    async def handle(event: StoredEvent) -> None:
        given.append(event.event_id)

    made = Subscription(
        "S", world.here.source, SOURCE, InMemoryCheckpointRepository(), handle, poll_interval=0.1
    )
    running = asyncio.create_task(made.run())
    await insert(world.source, world.tenant)

    async def delivered() -> bool:
        return len(given) == 1

    await until(delivered, "the event")
    made.stop()
    await asyncio.wait_for(running, 5)


async def test_listening_goes_on_after_its_session_was_ended(world: World) -> None:
    other = await world.process()
    async with subscribed(world, "router") as given:
        await world.source.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
            APPLICATION,
        )
        await other.append(world.tenant)

        async def delivered() -> bool:
            return len(given) == 1

        # What was appended while nobody listened is found when the session is back.
        await until(delivered, "the event")


async def test_a_subscription_that_is_stopped_ends_at_once(world: World) -> None:
    async def handle(_: StoredEvent) -> None:
        return None

    made = Subscription(
        "S", world.here.source, SOURCE, InMemoryCheckpointRepository(), handle, poll_interval=NEVER
    )
    running = asyncio.create_task(made.run())
    await until(lambda: listeners(world, 1), "the listening session")
    made.stop()
    await asyncio.wait_for(running, 5)

    async def gone() -> bool:
        return not await listeners(world, 1)

    await until(gone, "the end of the listening session")
    assert isinstance(world.source, asyncpg.Connection)
