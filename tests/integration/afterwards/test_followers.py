"""Who follows a way back holds it for as long as it takes, and not longer than others let it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from eventsource.migration.driver import follower
from eventsource.migration.repositories.ways_back import WayBack, WaysBack
from eventsource.migration.steps.passes import Passes
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import Process
from tests.support.there_and_back import appended, moved
from tests.support.waiting import until
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World


@dataclass
class Slow:
    """A catch-up that takes until it may end; how it did."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    was_cancelled: bool = False


@contextlib.asynccontextmanager
async def followed_slowly(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[WayBack, WaysBack, Slow]]:
    monkeypatch.setattr(follower, "HELD_SECONDS", 3.0)
    move = await moved(world, keeper)
    await appended(keeper, world.tenant)
    ways = WaysBack(world.here.migrations.pool)
    way = await ways.of_migration(move.id)
    assert way is not None
    slow, catch_up = Slow(), Passes.catch_up

    async def caught_up(passes: Passes) -> Any:
        slow.reached.set()
        try:
            await slow.may_end.wait()
        except asyncio.CancelledError:
            slow.was_cancelled = True
            raise
        return await catch_up(passes)

    monkeypatch.setattr(Passes, "catch_up", caught_up)
    working = asyncio.create_task(keeper.coordinator.work(poll_seconds=0.02))
    try:
        async with asyncio.timeout(20):
            await slow.reached.wait()
        yield way, ways, slow
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


async def test_a_long_catch_up_is_not_taken_away_from_a_process_that_lives(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed_slowly(world, keeper, monkeypatch) as (way, ways, slow):
        held = "select driver_owner, driver_expires_at from tenant_ways_back"
        owner, first = await world.control.fetchrow(held) or (None, None)

        async def renewed() -> bool:
            now = await world.control.fetchrow(held)
            assert now is not None
            assert now["driver_owner"] == owner
            return bool(now["driver_expires_at"] > first)

        await until(renewed, "another moment for who carries")
        assert not await ways.follow(way.id, uuid4(), 60)
        slow.may_end.set()
        home = await world.ids("target")

        async def carried() -> bool:
            return set(home) <= set(await world.ids("source"))

        await until(carried, "the way back")
    assert not slow.was_cancelled


async def test_who_has_lost_a_way_back_stops_carrying(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was frozen for longer than its claim, while another one took it."""
    async with followed_slowly(world, keeper, monkeypatch) as (way, ways, slow):
        await world.control.execute(
            "update tenant_ways_back set driver_owner = $1,"
            " driver_expires_at = now() + interval '1 minute'",
            uuid4(),
        )

        async def stopped() -> bool:
            return slow.was_cancelled

        await until(stopped, "the end of the catch-up")
        now = await ways.get(way.id)
        assert now is not None
        assert now.is_followed, "the claim of the other one stays"


async def read_only(world: World) -> Process:
    return await world.process(
        control_dsn=f"{world.dsns['control']}?default_transaction_read_only=on"
    )


async def swapped(world: World) -> Process:
    """The configuration names two stores the wrong way round."""
    dsns = world.dsns
    world.dsns = {**dsns, "source": dsns["target"], "target": dsns["source"]}
    try:
        return await world.process(
            source_store=lambda pool: PostgreSQLEventStore(pool, TARGET_TABLE),
            target_store=lambda pool: PostgreSQLEventStore(pool, SOURCE_TABLE),
        )
    finally:
        world.dsns = dsns


@pytest.mark.parametrize(
    ("made", "said"),
    [(read_only, "cannot follow ways back: cannot execute"), (swapped, "is not followed: ")],
)
async def test_who_cannot_follow_says_so_once(
    world: World,
    keeper: Process,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Callable[[World], Awaitable[Process]],
    said: str,
) -> None:
    """It was logged at every attempt: six times in five seconds."""
    await moved(world, keeper)
    monkeypatch.setattr(follower, "LONGEST_FOLLOW_SECONDS", follower.FOLLOW_SECONDS)
    elsewhere = await made(world)
    attempts = 0
    due = WaysBack.due

    async def counted(ways: WaysBack) -> list[WayBack]:
        nonlocal attempts
        attempts += 1
        return await due(ways)

    monkeypatch.setattr(WaysBack, "due", counted)
    with caplog.at_level(logging.WARNING):
        working = asyncio.create_task(elsewhere.coordinator.work(poll_seconds=0.02))

        async def tried() -> bool:
            return attempts >= 5

        await until(tried, "several attempts")
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    found = [each for each in caplog.records if said in each.getMessage()]
    assert len(found) == 1, caplog.text
