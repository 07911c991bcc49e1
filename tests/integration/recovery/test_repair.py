"""What stores, routes and journal say after one of them has gone back."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import uuid4

import pytest

from eventsource.migration import (
    InvalidStateTransitionError,
    MigrationError,
    MigrationState,
    PositionMapper,
    PreflightError,
)
from eventsource.migration.protocol import FIRST
from eventsource.migration.recovery.judgement import Judgement
from eventsource.migration.recovery.repair import Repair
from eventsource.migration.recovery.report import ChangeKind
from eventsource.migration.recovery.survey import Survey
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from tests.support.application import SOURCE, TARGET
from tests.support.gone_back import Remembered, forget_control, forget_departure
from tests.support.one_fence import refused
from tests.support.worlds.three_databases import World, insert, table


async def control_rows(world: World) -> list[object]:
    """Routes, the journal's states and the mapping."""
    return [
        [tuple(row) for row in await world.control.fetch(query)]
        for query in (
            "select tenant_id, store_id, generation, migration_id, target_store_id,"
            " migration_state from tenant_routing order by 1",
            "select id, state, generation, source_store_id, target_store_id, position_offset,"
            " fence_position, source_identity, target_identity from tenant_migrations order by 1",
            "select migration_id, source_position, target_position, event_id"
            " from migration_position_mappings order by 1, 2",
        )
    ]


@pytest.mark.parametrize("tenants", [1, 3])
async def test_a_control_database_that_is_lost_is_made_again(world: World, tenants: int) -> None:
    movers = [world.tenant, world.other, uuid4()][:tenants]
    for tenant in movers:
        await world.seed(30, tenant)
    staying = uuid4()
    await world.seed(5, staying)
    moved = [await world.migrate(tenant) for tenant in movers]
    await world.here.append(world.tenant)
    before = await control_rows(world)
    await forget_control(world)
    fresh = await world.process()
    report = await fresh.coordinator.repair()
    assert {change.kind for change in report.changes} == {ChangeKind.JOURNAL, ChangeKind.ROUTE}
    assert report.notes == ()
    assert await control_rows(world) == before
    assert (await fresh.coordinator.repair()).changes == ()
    mapper = PositionMapper(PostgreSQLPositionMappingRepository(world.control))
    for each in moved:
        head = each.fence_position or 0
        assert await mapper.translate(each.id, head) == head + (each.position_offset or 0)
    await fresh.append(world.tenant)
    assert (await fresh.router.route(staying)).store_id == SOURCE


async def test_a_journal_that_is_lost_comes_back_with_a_row_for_each_event(world: World) -> None:
    """That it had done without is in no store; to have them is right in any case."""
    await world.seed(30)
    keep_the_offset(world)
    moved = await world.migrate()
    mapping = PostgreSQLPositionMappingRepository(world.control)
    assert await mapping.count(moved.id) == 0
    await forget_control(world)
    fresh = await world.process()
    await fresh.coordinator.repair()
    assert await mapping.count(moved.id) == 30
    found = await fresh.coordinator.get_migration(moved.id)
    assert (found.maps_rows, found.protocol) == (True, FIRST)
    assert (await fresh.coordinator.repair()).changes == ()


def keep_the_offset(world: World) -> None:
    world.coordinator._config = replace(world.coordinator._config, position_mapping="offset")


@pytest.mark.parametrize("state", ["pending", "bulk_copy", "dual_write", "paused", "rolled_back"])
async def test_a_journal_of_an_earlier_time_follows_the_decision(world: World, state: str) -> None:
    await _follows_the_decision(world, state)


async def test_a_journal_that_keeps_its_offset_follows_the_decision_without_rows(
    world: World,
) -> None:
    keep_the_offset(world)
    await _follows_the_decision(world, "rolled_back")


async def _follows_the_decision(world: World, state: str) -> None:
    await world.seed(30)
    done = await world.migrate()
    # It stands by until it has seen the end, and would drive beside the repair.
    await world.coordinator.close()
    await world.control.execute(
        "update tenant_migrations set state = $1::text, fence_position = null,"
        " paused_from = case when $1::text = 'paused' then 'dual_write' end",
        state,
    )
    await world.control.execute(
        "update tenant_routing set store_id = $1, generation = 0, target_store_id = $2",
        SOURCE, TARGET,
    )  # fmt: skip
    await world.control.execute(
        "delete from migration_position_mappings where source_position > 10"
    )
    await world.coordinator.repair()
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.generation, route.target_store_id) == (TARGET, 1, None)
    found = await world.coordinator.get_migration(done.id)
    assert found.state is MigrationState.MIGRATED
    await world.assert_moved(found)


async def test_of_two_repairs_the_slower_one_takes_nothing_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its first change the other one is done, and the tenant has moved."""
    await world.seed(30)
    migration = await world.dual_write()
    await world.coordinator.close()
    await forget_control(world)
    quick, slow = await world.process(), await world.process()
    look, seen = Repair.look, 0

    async def overtaken(self: Repair) -> tuple[Survey, Judgement]:
        nonlocal seen
        found, seen = await look(self), seen + 1
        if seen == 1:
            await quick.coordinator.repair()
            await quick.coordinator.resume_migration(migration.id)
            await quick.coordinator.initiate_cutover(migration.id)
        return found

    monkeypatch.setattr(Repair, "look", overtaken)
    await slow.coordinator.repair()
    moved = await world.here.migrations.get(migration.id)
    assert (moved.state, moved.paused_from) == (MigrationState.MIGRATED, None)
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.generation) == (TARGET, 1)


async def test_no_route_is_repaired_while_a_driver_is_at_work(world: World) -> None:
    """Whatever it is at: the next thing that it writes may be what a repair has just changed."""
    await world.seed(30)
    await world.migrate()
    await world.control.execute(
        "update tenant_routing set store_id = $1, generation = 0, target_store_id = null", SOURCE
    )
    await world.control.execute(
        "update tenant_migrations set driver_owner = gen_random_uuid(), driver_name = 'host:7',"
        " driver_expires_at = now() + interval '1 minute'"
    )
    before = await control_rows(world)
    with pytest.raises(MigrationError, match=r"host:7.*nothing was changed"):
        await world.coordinator.repair()
    assert await control_rows(world) == before
    await world.control.execute("update tenant_migrations set driver_expires_at = null")
    await world.coordinator.repair()
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert route.store_id == TARGET


@pytest.mark.parametrize("state", ["pending", "bulk_copy"])
async def test_a_driver_without_a_repair_rolls_forward_too(world: World, state: str) -> None:
    await world.seed(30)
    done = await world.migrate()
    await world.control.execute("update tenant_migrations set state = $1", state)
    await world.control.execute(
        "update tenant_routing set store_id = $1, generation = 0, target_store_id = $2",
        SOURCE, TARGET,
    )  # fmt: skip
    await world.control.execute("delete from migration_position_mappings")
    fresh = await world.process()
    await fresh.coordinator.resume_migration(done.id)
    await world.reach(done, "migrated")
    await world.assert_moved(done)
    assert (await fresh.router.route(world.tenant)).store_id == TARGET


@pytest.mark.parametrize("fence", ["none", "open"])
@pytest.mark.parametrize("put_back", [False, True])
async def test_a_source_that_has_forgotten_the_move_sends_writers_on_again(
    world: World, fence: str, put_back: bool
) -> None:
    await world.seed(20)
    done = await world.migrate()
    stream = uuid4()
    await world.here.append(world.tenant, stream, count=2)
    await forget_departure(world, fence=fence)
    # An old process takes the source for the tenant's home.
    fits = await insert(world.source, world.tenant)
    taken = await insert(world.source, world.tenant, stream=stream, version=2)
    gap = await insert(world.source, world.tenant, stream=uuid4(), version=7)
    there = await world.rows("target")
    report = await world.coordinator.repair(put_back=put_back)
    assert [change.kind for change in report.changes] == [ChangeKind.FENCE]
    error = await refused(insert(await world.connect(), world.tenant), "EVF01")
    assert json.loads(error.detail or "")["generation"] == 1
    stranded = {event.event_id: event for event in report.stranded}
    assert set(stranded) == {row["event_id"] for row in (fits, taken, gap)}
    assert stranded[fits["event_id"]].conflict is None
    assert "another event of version 2" in (stranded[taken["event_id"]].conflict or "")
    assert "ends at version 0" in (stranded[gap["event_id"]].conflict or "")
    assert {row["event_id"] for row in (fits, taken, gap)} <= set(await world.ids("source"))
    added = (await world.rows("target"))[len(there) :]
    assert [row[1] for row in added] == ([str(fits["event_id"])] if put_back else [])
    assert (await world.coordinator.repair()).changes == ()
    with pytest.raises(InvalidStateTransitionError):
        await world.coordinator.abort_migration(done.id)
    await world.here.append(world.tenant)


async def test_a_store_in_the_middle_of_a_way_there_and_back(world: World) -> None:
    """The tenant has come back; the store that it had left has forgotten that."""
    await world.seed(10)
    first = await world.migrate()
    await world.source.execute(
        f"select set_config('eventsource.migration', '{first.id}', false); delete from events"
    )
    here = world.here
    back = await here.coordinator.start_migration(
        world.tenant, here.target, here.source, TARGET, SOURCE
    )
    await world.reach(back, "dual_write")
    await here.coordinator.initiate_cutover(back.id)
    await world.target.execute("delete from eventsource_fences where role = 'source'")
    await world.target.execute(f"select eventsource_guard_renew('{table('target')}'::regclass)")
    await world.coordinator.repair()
    error = await refused(insert(world.target, world.tenant, side="target"), "EVF01")
    assert json.loads(error.detail or "")["target_store_id"] == SOURCE
    assert (await world.coordinator.repair()).changes == ()
    await here.append(world.tenant)


async def test_both_stores_have_gone_back_and_the_route_has_not(world: World) -> None:
    await world.seed(10)
    stale = await world.process(route_ttl_seconds=60)
    await world.migrate()
    assert (await stale.router.route(world.tenant)).store_id == TARGET
    for side in (world.source, world.target):
        await side.execute("delete from eventsource_fences; delete from eventsource_copy_progress")
    await world.source.execute(f"select eventsource_guard_renew('{table('source')}'::regclass)")
    await world.target.execute(f"truncate {table('target')}")
    report = await world.coordinator.repair()
    assert [change.kind for change in report.changes] == [ChangeKind.ROUTE]
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.generation) == (SOURCE, 2)
    await world.here.append(world.tenant)
    # The next decision is above everything that any router has seen.
    done = await world.migrate()
    assert (await world.router.route(world.tenant)).generation == 3
    await world.assert_moved(done)


async def test_both_stores_have_gone_back_to_before_the_decision(world: World) -> None:
    """They agree that the tenant is still at the source, and no store knows of another word."""
    await world.seed(10)
    migration = await world.dual_write()
    await world.here.append(world.tenant)
    then = await Remembered.of(world)
    await world.coordinator.initiate_cutover(migration.id)
    events = await world.ids("source")
    await then.put_back(world)
    report = await world.coordinator.repair()
    assert [c.kind for c in report.changes] == [ChangeKind.ROUTE, ChangeKind.CLEAN_AGAIN]
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.generation) == (SOURCE, 2)
    assert await world.ids("source") == events
    assert await world.ids("target") == []
    fresh = await world.process()
    await fresh.append(world.tenant)
    assert len(await world.ids("source")) == len(events) + 1
    assert (await world.coordinator.repair()).changes == ()
    await world.assert_moved(await world.migrate())


async def test_a_migration_that_its_target_has_forgotten_is_named_with_its_end(
    world: World,
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.target.execute(
        "delete from eventsource_fences; delete from eventsource_copy_progress"
    )
    await world.target.execute(f"alter table {table('target')} disable trigger all")
    await world.target.execute(f"truncate {table('target')}")
    report = await world.coordinator.repair()
    assert report.changes == ()
    assert [f"abort {migration.id} --without-target" in note for note in report.notes] == [True]
    await world.coordinator.abort_migration(migration.id, without_target=True)
    assert (await world.coordinator.repair()).notes == ()
    await world.assert_moved(await world.migrate())


async def test_a_migration_that_was_aborted_after_the_backup_is_named_with_its_end(
    world: World,
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.abort_migration(migration.id)
    # The control database is put back to when it was under way.
    await world.control.execute("update tenant_migrations set state = 'bulk_copy'")
    report = await world.coordinator.repair()
    assert report.changes == ()
    assert [f"abort {migration.id}`" in note for note in report.notes] == [True]
    await world.coordinator.abort_migration(migration.id)
    assert (await world.coordinator.repair()).notes == ()
    await world.assert_moved(await world.migrate())


async def test_a_migration_that_was_aborted_is_cleaned_again(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    fence, rows = [
        await world.source.fetchrow("select * from eventsource_fences"),
        await world.target.fetch("select * from eventsource_copy_progress"),
    ]
    assert fence is not None
    assert rows
    await world.coordinator.abort_migration(migration.id)
    # The source is put back to when it was under way.
    names = ", ".join(fence.keys())
    await world.source.execute(
        f"insert into eventsource_fences ({names}) overriding system value"
        f" select {names} from jsonb_populate_record(null::eventsource_fences, $1::text::jsonb)",
        json.dumps(dict(fence), default=str),
    )
    await world.source.execute(f"select eventsource_guard_renew('{table('source')}'::regclass)")
    await refused(world.source.execute("update events set actor_id = 'x'"), "EVF02")
    aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    assert await world.source.fetchval("select count(*) from eventsource_fences") == 0
    await world.source.execute("update events set actor_id = 'x'")


async def test_what_a_target_that_was_put_back_has_of_an_aborted_migration_goes_again(
    world: World,
) -> None:
    """To when the tenant was arriving: the source knows nothing of it any more."""
    await world.seed(10)
    migration = await world.dual_write()
    names = ["eventsource_fences", "eventsource_copy_progress", table("target")]
    kept = [
        [dict(row) for row in await world.target.fetch(f"select to_jsonb(t)::text from {name} t")]
        for name in names
    ]
    await world.coordinator.abort_migration(migration.id)
    for name, found in zip(reversed(names), reversed(kept), strict=True):
        for row in found:
            await world.target.execute(
                f"insert into {name} overriding system value"
                f" select * from jsonb_populate_record(null::{name}, $1::text::jsonb)",
                row["to_jsonb"],
            )
    assert len(await world.ids("target")) == 10
    aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    assert await world.ids("target") == []
    for name in names:
        assert await world.target.fetchval(f"select count(*) from {name}") == 0


async def test_a_fence_that_is_newer_than_the_route_refuses_a_start(world: World) -> None:
    await world.seed(3)
    await world.migrate()
    await world.control.execute("delete from tenant_routing")
    await world.source.execute("delete from eventsource_fences")
    await world.source.execute(f"select eventsource_guard_renew('{table('source')}'::regclass)")
    await world.target.execute(f"truncate {table('target')}")
    await world.target.execute(
        "update eventsource_fences set role = 'source', state = 'moved', moved_to = 'shared'"
    )
    fresh = await world.process()
    with pytest.raises(PreflightError, match="eventsource-migrate repair"):
        await fresh.start(world.tenant)
