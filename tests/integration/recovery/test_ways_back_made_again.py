"""A control database that does not know of a way back, or not what the stores say of it."""

from __future__ import annotations

from typing import Any

import pytest

from eventsource.migration import (
    InvalidStateTransitionError,
    Migration,
    MigrationError,
    PositionMapper,
    PreflightError,
    StoreGoneBackError,
)
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from eventsource.migration.steps.passes import Passes
from tests.support.application import SOURCE, TARGET, Process
from tests.support.gone_back import ControlRows, forget_control
from tests.support.one_fence import refused
from tests.support.there_and_back import appended, assert_home, moved, versions, whole
from tests.support.worlds.three_databases import World, insert, table


async def followed(process: Process) -> None:
    await process.coordinator._drivers._follower.turn()


async def kept(world: World) -> Process:
    """A process whose migrations keep a way back."""
    return await world.process(keep_way_back="1h", lease_seconds=1.0)


async def armed_and_followed(world: World) -> tuple[Process, Migration]:
    """A tenant that has moved, with events that are at both stores and some at one only."""
    keeper = await kept(world)
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    await followed(keeper)
    await appended(keeper, world.tenant)
    return keeper, migration


async def shown(process: Process, migration: Migration) -> str | None:
    way = await process.coordinator.way_back(migration.id)
    return way.shown if way is not None else None


async def mapped(world: World) -> set[Any]:
    rows = await world.control.fetch(
        "select migration_id, source_position, target_position, event_id"
        " from migration_position_mappings"
    )
    return {tuple(row) for row in rows}


async def assert_returns(world: World, process: Process, migration: Migration) -> None:
    """It takes the tenant back with everything that its home has, and what follows is a move."""
    at_home = set(await world.ids("target"))
    back = await process.coordinator.return_migration(migration.id)
    assert back.returns == migration.id
    assert set(await world.ids("source")) == at_home
    assert whole(await versions(world, "source"))
    await assert_home(world, process, "source", SOURCE)
    forth = await process.coordinator.return_migration(back.id)
    assert forth.target_store_id == TARGET
    assert whole(await versions(world, "target"))
    await assert_home(world, process, "target", TARGET)


async def assert_nothing_to_repair(process: Process) -> None:
    report = await process.coordinator.repair()
    assert (report.changes, report.notes) == ((), ())


async def test_a_lost_control_database_has_the_way_back_again(world: World) -> None:
    keeper, migration = await armed_and_followed(world)
    await followed(keeper)
    before = await mapped(world)
    await forget_control(world)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    assert await mapped(world) == before
    assert await shown(fresh, migration) == "armed"
    await assert_nothing_to_repair(fresh)
    await appended(fresh, world.tenant)
    await followed(fresh)
    assert set(await world.ids("source")) == set(await world.ids("target"))
    await assert_returns(world, fresh, migration)
    mapper = PositionMapper(PostgreSQLPositionMappingRepository(world.control))
    assert await mapper.translate(migration.id, 5) == 5


async def test_what_was_lost_is_made_again_with_what_is_configured(world: World) -> None:
    """Pace, pauses and ways back were those of a configuration in which nothing is said."""
    configured: dict[str, Any] = {
        "keep_way_back": 3600.0,
        "cutover_timeout_seconds": 2.0,
        "max_events_per_second": 4000,
    }
    keeper = await world.process(**configured, position_mapping="offset", lease_seconds=1.0)
    await world.seed(20)
    await world.seed(20, world.other)
    migration = await world.dual_write(process=keeper)
    await keeper.coordinator.initiate_cutover(migration.id)
    paused = await keeper.start(world.other)
    await world.reach(paused, "dual_write")
    await keeper.coordinator.pause_migration(paused.id)
    await forget_control(world)
    fresh = await world.process(**configured, position_mapping="offset", lease_seconds=1.0)
    await fresh.coordinator.repair()
    for each in (migration, paused):
        config = (await fresh.migrations.get(each.id)).config
        assert {name: getattr(config, name) for name in configured} == configured
        # What is mapped again is mapped by rows.
        assert config.position_mapping == "rows"
    kept = await world.control.fetch("select keep_seconds from tenant_ways_back")
    assert [row["keep_seconds"] for row in kept] == [3600.0]
    await assert_nothing_to_repair(fresh)
    await fresh.coordinator.resume_migration(paused.id)
    await fresh.coordinator.initiate_cutover(paused.id)
    await assert_returns(world, fresh, migration)


@pytest.mark.parametrize("when", ["bulk_copy", "dual_write", "preparing"])
async def test_a_control_database_from_before_the_arming_has_it_again(
    world: World, when: str
) -> None:
    keeper = await kept(world)
    await world.seed(20)
    migration = await world.dual_write(process=keeper)
    then = await ControlRows.of(world)
    migration = await keeper.coordinator.initiate_cutover(migration.id)
    if when == "preparing":
        then = await ControlRows.of(world)
    await appended(keeper, world.tenant)
    await followed(keeper)
    await then.put_back(world)
    if when == "preparing":
        await world.control.execute("update tenant_ways_back set state = 'preparing'")
    else:
        await world.control.execute("update tenant_migrations set state = $1", when)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    assert await shown(fresh, migration) == "armed"
    await assert_nothing_to_repair(fresh)
    await assert_returns(world, fresh, migration)


@pytest.mark.parametrize("ended", ["half", "wholly"])
async def test_what_has_ended_at_the_old_store_takes_nobody_back(world: World, ended: str) -> None:
    """The control database has gone back to before the end, and believes that it stands by."""
    keeper, migration = await armed_and_followed(world)
    await followed(keeper)
    then = await ControlRows.of(world)
    if ended == "half":
        await world.source.execute(
            "update eventsource_fences set state = 'retired', generation = -1"
            " where role = 'target' and state = 'standby'"
        )
    else:
        await keeper.coordinator.close_way_back(migration.id)
    await then.put_back(world)
    fresh = await kept(world)
    with pytest.raises(StoreGoneBackError, match="eventsource-migrate repair"):
        await fresh.coordinator.return_migration(migration.id)
    await appended(fresh, world.tenant)
    await assert_home(world, fresh, "target", TARGET)
    await fresh.coordinator.repair()
    with pytest.raises(InvalidStateTransitionError, match="without a way back"):
        await fresh.coordinator.return_migration(migration.id)


async def test_one_that_is_made_again_can_be_closed_and_its_rows_cleaned_up(world: World) -> None:
    _, migration = await armed_and_followed(world)
    fresh = await kept(world)
    await world.control.execute("delete from tenant_ways_back")
    with pytest.raises(PreflightError, match="eventsource-migrate repair"):
        await fresh.coordinator.start_migration(
            world.tenant, fresh.target, fresh.source, TARGET, SOURCE
        )
    await forget_control(world)
    await fresh.coordinator.repair()
    way = await fresh.coordinator.close_way_back(migration.id)
    assert way.shown == "closed"
    await world.target.execute(
        f"update {table('target')} set actor_id = actor_id where tenant_id = $1", world.tenant
    )
    found = await fresh.coordinator.cleanup(migration.id, backed_up=True, now=True)
    assert found.deleted == 32
    assert await world.ids("source") == []
    # And it can move on.
    back = await fresh.coordinator.start_migration(
        world.tenant, fresh.target, fresh.source, TARGET, SOURCE
    )
    await world.reach(back, "dual_write")
    await fresh.coordinator.initiate_cutover(back.id)
    await assert_home(world, fresh, "source", SOURCE)


@pytest.mark.parametrize("gone", ["at the old store", "at home", "its progress"])
async def test_half_a_way_back_is_closed(world: World, gone: str) -> None:
    """What nobody can prove nobody returns by: it is ended, and the tenant may move on."""
    _, migration = await armed_and_followed(world)
    await forget_control(world)
    statement, side = {
        "at the old store": ("delete from eventsource_fences where state = 'standby';"
                             " delete from eventsource_copy_progress", "source"),
        "at home": ("delete from eventsource_fences where role = 'source'", "target"),
        "its progress": ("delete from eventsource_copy_progress", "source"),
    }[gone]  # fmt: skip
    await getattr(world, side).execute(statement)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    assert await shown(fresh, migration) == "closing"
    await followed(fresh)
    assert await shown(fresh, migration) == "closed"
    await assert_nothing_to_repair(fresh)
    assert await world.target.fetch("select from eventsource_fences where role = 'source'") == []
    await fresh.coordinator.cleanup(migration.id, backed_up=True, now=True)
    back = await fresh.coordinator.start_migration(
        world.tenant, fresh.target, fresh.source, TARGET, SOURCE
    )
    await world.reach(back, "dual_write")


async def test_one_that_was_closed_after_the_backup_of_the_control_database_stays_closed(
    world: World,
) -> None:
    keeper, migration = await armed_and_followed(world)
    then = await ControlRows.of(world)
    await keeper.coordinator.close_way_back(migration.id)
    await then.put_back(world)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    await followed(fresh)
    assert await shown(fresh, migration) == "closed"
    await assert_nothing_to_repair(fresh)


@pytest.mark.parametrize("ends", ["is closed", "its time is over", "is returned by"])
async def test_one_by_which_the_tenant_has_returned_is_left_alone(world: World, ends: str) -> None:
    """The control database was put back to before that; the decision is in the store it left."""
    keeper, migration = await armed_and_followed(world)
    then = await ControlRows.of(world)
    await keeper.coordinator.return_migration(migration.id)
    await then.put_back(world)
    fresh = await kept(world)
    if ends == "its time is over":
        await world.control.execute(
            "update tenant_migrations set completed_at = now() - interval '2 hours'"
        )
        for _ in range(3):
            await followed(fresh)
    else:
        coordinator, closes = fresh.coordinator, ends == "is closed"
        with pytest.raises(StoreGoneBackError, match="eventsource-migrate repair"):
            await (coordinator.close_way_back if closes else coordinator.return_migration)(
                migration.id
            )
    await refused(insert(world.target, world.tenant, side="target"), "EVF01")
    await fresh.coordinator.repair()
    way = await fresh.coordinator.way_back(migration.id)
    assert way is not None
    assert way.shown == "returned"
    await assert_home(world, fresh, "source", SOURCE)


@pytest.mark.parametrize("state", ["closed", "refused"])
async def test_stores_that_have_an_ended_one_again_are_rid_of_it(world: World, state: str) -> None:
    """Both were put back to before it was closed: nobody would end it there otherwise."""
    _, migration = await armed_and_followed(world)
    await world.control.execute("update tenant_ways_back set state = $1", state)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    assert await shown(fresh, migration) == "closing"
    await followed(fresh)
    assert await shown(fresh, migration) == "closed"
    await assert_nothing_to_repair(fresh)


async def test_one_that_waited_for_the_cutover_is_made_ready_again_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await kept(world)
    await world.seed(20)
    migration = await world.dual_write(process=keeper)

    async def broken(self: Passes) -> Any:
        raise MigrationError("out of sorts")

    with monkeypatch.context() as patched:
        patched.setattr(Passes, "under_the_fence", broken)
        with pytest.raises(MigrationError, match="out of sorts"):
            await keeper.coordinator.initiate_cutover(migration.id)
    await keeper.stop()
    world.processes.remove(keeper)
    await forget_control(world)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    await assert_nothing_to_repair(fresh)
    await fresh.coordinator.resume_migration(migration.id)
    await fresh.coordinator.initiate_cutover(migration.id)
    assert await shown(fresh, migration) == "armed"
    await appended(fresh, world.tenant)
    await assert_returns(world, fresh, migration)


async def test_a_return_that_nobody_knows_of_any_more_is_given_up(world: World) -> None:
    """Its cutover had begun: those who came to the old store waited there, and would go on to."""
    _, migration = await armed_and_followed(world)
    await world.source.execute(
        "update eventsource_fences set generation = 1 where state = 'standby'"
    )
    await refused(insert(world.source, world.tenant), "EVF03")
    await forget_control(world)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    await refused(insert(world.source, world.tenant), "EVF01")
    assert await shown(fresh, migration) == "armed"
    await assert_returns(world, fresh, migration)


@pytest.mark.parametrize("legs", [1, 2])
async def test_a_tenant_that_has_returned_may_go_forth_again(world: World, legs: int) -> None:
    """Moves, returns and the way back of the last: all of it from the fences alone."""
    keeper, migration = await armed_and_followed(world)
    made = [migration]
    for _ in range(legs):
        made.append(await keeper.coordinator.return_migration(made[-1].id))
        await appended(keeper, world.tenant)
        await followed(keeper)
    before = await mapped(world)
    await forget_control(world)
    fresh = await kept(world)
    await fresh.coordinator.repair()
    await assert_nothing_to_repair(fresh)
    for then in made:
        now = await fresh.coordinator.get_migration(then.id)
        assert (now.state, now.returns) == ("migrated", then.returns)
    assert await mapped(world) == before
    assert await shown(fresh, made[-1]) == "armed"
    assert await shown(fresh, made[0]) == "returned"
    forth = await fresh.coordinator.return_migration(made[-1].id)
    home = "source" if forth.target_store_id == SOURCE else "target"
    assert whole(await versions(world, home))
    assert set(await world.ids("source")) == set(await world.ids("target"))
    await assert_home(world, fresh, home, forth.target_store_id)
