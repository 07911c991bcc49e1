"""An abort looks at the target before it deletes, and each of its portions looks again."""

from __future__ import annotations

import pytest

from eventsource.migration import Migration, StoreGoneBackError
from eventsource.migration.event_table import EventTable, OwnTable
from eventsource.migration.tables import fences, progress
from tests.support.gone_back import lose, rescued
from tests.support.held_migration import held_in
from tests.support.worlds.three_databases import World, insert


async def arrived(world: World) -> tuple[OwnTable, Migration]:
    """A paused migration whose rows are at the target, and the target's table."""
    await world.seed(30)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.target.execute(
        "select set_config('eventsource.migration', $1, false)", str(migration.id)
    )
    target = EventTable(world.target, await world.here.target.address())
    return target, await world.here.migrations.get(migration.id)


@pytest.mark.parametrize("state", ["closed", "open", "moved"])
async def test_a_portion_deletes_only_under_an_aborting_fence(world: World, state: str) -> None:
    target, migration = await arrived(world)
    await world.target.execute("update eventsource_fences set state = $1", state)
    await progress.delete_copied(target, target, migration)
    assert len(await world.ids("target")) == 30
    await world.target.execute("update eventsource_fences set state = 'aborting'")
    await progress.delete_copied(target, target, migration)
    assert await world.ids("target") == []


async def test_a_portion_deletes_nothing_of_another_migration_or_outside_of_its_block(
    world: World,
) -> None:
    target, migration = await arrived(world)
    beyond = await insert(world.target, world.tenant, side="target")
    await world.target.execute("update eventsource_fences set state = 'aborting'")
    await world.target.execute(
        "update eventsource_fences set migration_id = gen_random_uuid() where role = 'target'"
    )
    await progress.delete_copied(target, target, migration)
    assert len(await world.ids("target")) == 31
    await world.target.execute("update eventsource_fences set migration_id = $1", migration.id)
    await progress.delete_copied(target, target, migration)
    assert await world.ids("target") == [beyond["event_id"]]


@pytest.mark.parametrize("before", ["closed", "aborting"])
async def test_an_abort_that_dies_is_begun_again(world: World, before: str) -> None:
    target, migration = await arrived(world)
    await world.target.execute("update eventsource_fences set state = $1", before)
    found = await fences.begin_abort(target, world.tenant, migration.id)
    assert found is not None
    assert (found.state, found.generation) == ("aborting", migration.generation)


async def test_the_progress_row_without_its_fence_is_not_taken_for_nothing_to_do(
    world: World,
) -> None:
    _, migration = await arrived(world)
    # As after a later migration that has taken the fence over, or whose fence is all there is.
    await world.target.execute("update eventsource_fences set migration_id = gen_random_uuid()")
    with pytest.raises(StoreGoneBackError, match="no fence of it"):
        await world.coordinator.abort_migration(migration.id)
    assert len(await world.ids("target")) == 30
    assert await world.source.fetchval("select state from eventsource_fences") == "open"


async def test_no_pass_writes_to_a_target_that_is_open(world: World) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        await world.target.execute("update eventsource_fences set state = 'open'")
        before = await world.ids("target")
        await world.here.append(world.tenant)
        with pytest.raises(StoreGoneBackError, match="was opened at the target"):
            await world.coordinator.initiate_cutover(migration.id, force=True)
        assert await world.ids("target") == before
        assert await world.source.fetchval("select state from eventsource_fences") == "open"
        # Put right by hand, it goes on.
        await world.target.execute("update eventsource_fences set state = 'closed'")
        done = await world.coordinator.initiate_cutover(migration.id, force=True)
        await world.assert_moved(done)


@pytest.mark.parametrize(
    ("side", "sign"),
    [("source", "update eventsource_witnesses set passed_at = now()"),
     ("target", "update eventsource_copy_progress set"
      " source_started = source_started - interval '1 hour'")],
    ids=["its barrier came in a dump", "it was started again since the last pass"],
)  # fmt: skip
async def test_what_a_source_has_lost_that_has_the_barrier_is_kept(
    world: World, side: str, sign: str
) -> None:
    """The barrier of the last pass is there, and what came after it is at the target alone."""
    _, migration = await arrived(world)
    events = await world.ids("target")
    await lose(world, events[-3:], barriers=False)
    await getattr(world, side).execute(sign)
    await world.coordinator.abort_migration(migration.id)
    assert await rescued(world) == set(events[-3:])
    assert await world.ids("target") == []
