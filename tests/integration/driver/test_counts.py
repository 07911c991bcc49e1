"""The numbers in the journal: they never fall, and end at all of it, whoever carried the events."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from uuid import uuid4

from eventsource.migration import Migration, MigrationState
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert


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
