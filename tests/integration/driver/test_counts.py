"""The numbers in the journal: they never fall, and end at all of it, whoever carried the events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.cli import views
from eventsource.migration import Migration, MigrationState
from eventsource.migration.driver import counting
from eventsource.migration.driver.ways import OwnTables
from tests.support.held_migration import EVENTS, SLOW, cursor
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table


async def watched(world: World, migration: Migration) -> list[Migration]:
    return [each async for each in world.coordinator.stream_status(migration.id)]


async def test_what_mirrors_brought_counts_as_carried(world: World) -> None:
    """A finished move of 604,964 events said "601,775 (99 %)"."""
    await world.seed(200)
    driver = await world.process(pass_interval_seconds=0.05)
    migration = await driver.start(world.tenant)
    watching = asyncio.create_task(watched(world, migration))
    await world.reach(migration, "dual_write")
    await world.router.route(world.tenant)

    async def mirrors() -> bool:
        await world.router.route(world.tenant)
        return world.router.dual_write_stats(world.tenant) is not None

    await until(mirrors, "the mirror")
    for _ in range(20):
        await world.here.append(world.tenant, uuid4(), 0, 5)
        await insert(world.source, world.tenant, stream=uuid4())
        await asyncio.sleep(0.02)
    stats = world.router.dual_write_stats(world.tenant)
    assert stats is not None
    assert stats.mirrored > 0
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    there = len(await world.ids("target"))
    assert there == 320
    assert (done.events_copied, done.total_events, done.progress_percentage) == (there, there, 100)
    seen = await watching
    for before, after in pairwise(seen):
        assert before.events_copied <= after.events_copied
        assert before.progress_percentage <= after.progress_percentage, (before, after)
    assert seen[-1].state is MigrationState.MIGRATED


@asynccontextmanager
async def counted_late(monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> AsyncIterator[None]:
    """From 50 events on they are counted beside the copy, when the block is left; or not at all."""
    monkeypatch.setattr(counting, "AT_ONCE", 50)
    count, may = OwnTables.count, asyncio.Event()

    async def late(way: OwnTables, source: Any, passes: Any, most: int | None = None) -> int | None:
        if most is None:
            await may.wait()
            if fails:
                raise asyncpg.TooManyConnectionsError
        return await count(way, source, passes, most)

    monkeypatch.setattr(OwnTables, "count", late)
    yield
    may.set()


async def test_a_large_tenant_is_counted_while_it_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(EVENTS)
    await world.source.execute(f"analyze {table('source')}")
    driver = await world.process(**SLOW)
    async with counted_late(monkeypatch):
        migration = await driver.start(world.tenant)
        watching = asyncio.create_task(watched(world, migration))
        await cursor(world)
        await until(lambda: copied(world, migration), "the first events")
        begun = await world.coordinator.get_migration(migration.id)
        assert not begun.is_counted
        assert (begun.total_events, begun.progress_percentage) == (0, 0)
        assert views.share(begun) == f"{begun.events_copied} events, not counted yet"
        # As many as the server expects, until somebody knows.
        assert 0 < await world.coordinator.get_sync_lag(migration.id) <= EVENTS
        # Who goes on later still does not know.
        await world.coordinator.pause_migration(migration.id)
        paused = await world.reach(migration, "paused")
        assert not paused.is_counted
        assert "not counted yet" in views.share(paused)
        await world.coordinator.resume_migration(migration.id)
        await world.reach(migration, "bulk_copy")
    known = await until(lambda: total_of(world, migration), "the number of events")
    assert known == EVENTS
    assert (await world.coordinator.get_migration(migration.id)).state == "bulk_copy"
    await world.reach(migration, "dual_write")
    for before, after in pairwise(await stopped(world, migration, watching)):
        assert before.progress_percentage <= after.progress_percentage


@pytest.mark.parametrize("fails", [False, True])
async def test_a_copy_that_ends_before_its_count_says_how_many_there_were(
    world: World, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    await world.seed(EVENTS)
    async with counted_late(monkeypatch, fails):
        migration = await world.dual_write()
        done = await world.coordinator.get_migration(migration.id)
    assert (done.events_copied, done.total_events, done.progress_percentage) == (200, 200, 100)


async def copied(world: World, migration: Migration) -> int:
    return (await world.coordinator.get_migration(migration.id)).events_copied


async def total_of(world: World, migration: Migration) -> int:
    return (await world.coordinator.get_migration(migration.id)).total_events


async def stopped(
    world: World, migration: Migration, watching: asyncio.Task[list[Migration]]
) -> list[Migration]:
    """What was seen until the migration was aborted."""
    await world.coordinator.abort_migration(migration.id)
    return [each for each in await watching if each.state is not MigrationState.ROLLED_BACK]


async def test_the_rate_of_a_copy_is_published_while_it_runs(world: World) -> None:
    await world.seed(4000)
    driver = await world.process(max_events_per_second=2000, batch_size=10)
    migration = await driver.start(world.tenant)
    rates = []
    async for status in world.coordinator.stream_status(migration.id):
        if status.state is MigrationState.BULK_COPY and status.copy_rate is not None:
            rates.append(status.copy_rate)
        if status.state is MigrationState.DUAL_WRITE:
            assert status.copy_rate is None
            break
    assert rates, "no rate was published"
    assert 500 < rates[-1] < 4000


async def test_the_audit_says_whether_somebody_had_compared(world: World) -> None:
    migration = await world.dual_write()
    await world.coordinator.initiate_cutover(migration.id, compared=True)
    asked = await world.control.fetchrow(
        "select details->>'comparison' as comparison, (details->>'force')::bool as forced"
        " from migration_audit_log where event_type = 'cutover_requested'"
    )
    assert asked is not None
    assert dict(asked) == {"comparison": "done before", "forced": False}
