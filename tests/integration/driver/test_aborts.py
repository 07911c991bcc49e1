"""An abort, and a tenant that goes back: nothing is left, and hardly anybody notices."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import InvalidStateTransitionError, MigrationState
from eventsource.migration.tables import progress
from tests.support.application import SOURCE, TARGET, writing
from tests.support.held_migration import EVENTS, STATES, audit, held_in, mirrors
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
async def test_an_abort_from_another_process_leaves_nothing_behind(
    world: World, state: str, paused: bool
) -> None:
    await world.seed(5, world.other, side="target")
    await world.seed(5, world.other)
    async with held_in(world, state) as (migration, before):
        if paused:
            await world.coordinator.pause_migration(migration.id)
        aborted = await world.coordinator.abort_migration(migration.id, reason="second thoughts")
        assert (aborted.state, aborted.error_message) == ("rolled_back", "second thoughts")
        assert await world.fingerprint(journal=False) == before
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.migration_state, route.migration_id) == (SOURCE, "normal", None)


async def test_readers_see_nothing_of_a_tenant_whose_rows_are_going(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them are gone, and the fence is not closed any more, but says so."""
    await world.seed(5, world.other, side="target")
    await world.seed(20)
    migration = await world.dual_write()
    delete, seen = progress.delete_copied, []

    async def look_and_delete(*given: Any) -> None:
        assert len(await world.ids("target")) == 20
        seen.extend([event.tenant_id async for event in world.here.target.read_all()])
        await delete(*given)

    monkeypatch.setattr(progress, "delete_copied", look_and_delete)
    await world.coordinator.abort_migration(migration.id)
    assert seen == [world.other] * 5


@pytest.mark.parametrize("mapping", ["rows", "offset"])
async def test_what_was_mirrored_goes_with_the_abort_and_nothing_follows(
    world: World, mapping: str
) -> None:
    how = {"pass_interval_seconds": 60, "position_mapping": mapping}
    async with held_in(world, "dual_write", **how) as (migration, before):
        mapped = await world.control.fetchval("select count(*) from migration_position_mappings")
        assert (mapped > 0) == (mapping == "rows")
        await world.here.append(world.tenant)
        await until(lambda: mirrors(world), "a mirrored append")
        appending = asyncio.create_task(_append_for_ever(world))
        await world.coordinator.abort_migration(migration.id)
        await world.here.append(world.tenant)
        appending.cancel()
    assert not await world.ids("target")
    after = await world.fingerprint(journal=False)
    assert _of(after, "target") == _of(before, "target")
    await until(lambda: _mirroring_ended(world), "the mirror to end")
    assert not await world.ids("target")


async def _mirroring_ended(world: World) -> bool:
    return world.router.dual_write_stats(world.tenant) is None


async def _append_for_ever(world: World) -> None:
    while True:
        await world.here.append(world.tenant)


def _of(fingerprint: dict[str, Any], side: str) -> dict[str, Any]:
    return {name: value for name, value in fingerprint.items() if name.startswith(side)}


@pytest.mark.alone
async def test_an_abort_gets_through_between_busy_writers_who_hardly_notice(world: World) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        async with (
            writing(world.here, world.tenant, 8) as own,
            writing(world.here, world.other, 2) as others,
        ):
            await until(lambda: _has_written(own, 40), "appends")
            # What an append takes anyway is the machine's, which may be busy with other things.
            usual = max(own.longest, others.longest)
            began = time.monotonic()
            await world.coordinator.abort_migration(migration.id)
            assert time.monotonic() - began < 3
            wanted = own.acknowledged + 20
            await until(lambda: _has_written(own, wanted), "appends")
        assert max(own.longest, others.longest) < usual + 0.25
    assert len(await world.ids("source")) == EVENTS + own.acknowledged
    assert await world.ids("target") == []


async def _has_written(writers: Any, count: int) -> bool:
    return bool(writers.acknowledged >= count)


async def back_and_forth(world: World) -> None:
    """The tenant moves to the target, and its old rows go."""
    await world.seed(10)
    migration = await world.migrate()
    await world.coordinator.cleanup(migration.id, backed_up=True, now=True)


async def test_a_tenant_goes_back_the_way_it_came(world: World) -> None:
    stale = await world.process(route_ttl_seconds=60)
    await stale.router.route(world.tenant)
    await back_and_forth(world)
    here, stream = world.here, uuid4()
    await here.append(world.tenant, stream)
    migration = await here.coordinator.start_migration(
        world.tenant, here.target, here.source, TARGET, SOURCE
    )
    await world.reach(migration, "dual_write")
    await stale.append(world.tenant, stream, 1)
    done = await here.coordinator.initiate_cutover(migration.id)
    await stale.append(world.tenant, stream, 2)
    assert done.state is MigrationState.MIGRATED
    route = await here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.generation) == (SOURCE, 2)
    offset = done.position_offset or 0
    moved = await world.rows("target")
    assert (await world.rows("source", offset=offset))[: len(moved)] == moved
    assert len(await world.ids("source")) == len(moved) + 1 == 13


async def test_an_aborted_return_leaves_the_first_decision_in_force(world: World) -> None:
    await back_and_forth(world)
    here = world.here
    before = await world.fingerprint(journal=False)
    migration = await here.coordinator.start_migration(
        world.tenant, here.target, here.source, TARGET, SOURCE
    )
    await world.reach(migration, "dual_write")
    await here.coordinator.abort_migration(migration.id)
    # Whoever has not heard of anything still writes there.
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(world.source, world.tenant)
    assert refused.value.sqlstate == "EVF01"
    assert json.loads(refused.value.detail or "")["target_store_id"] == TARGET
    after = await world.fingerprint(journal=False)
    assert after["source"]["catalog"] == before["source"]["catalog"]
    assert await world.ids("source") == []
    await here.append(world.tenant)
    assert len(await world.ids("target")) == 11


async def test_a_second_abort_is_a_no_op(world: World) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        first = await world.coordinator.abort_migration(migration.id)
        before = await world.fingerprint()
        assert await world.coordinator.abort_migration(migration.id) == first
        assert await world.fingerprint() == before


async def test_two_processes_abort_at_once(world: World) -> None:
    async with held_in(world, "dual_write") as (migration, before):
        asked = [p.coordinator.abort_migration(migration.id) for p in world.processes]
        assert {m.state for m in await asyncio.gather(*asked)} == {MigrationState.ROLLED_BACK}
        assert await world.fingerprint(journal=False) == before


async def test_an_abort_after_the_move_is_refused_and_changes_nothing(world: World) -> None:
    await world.seed(3)
    migration = await world.migrate()
    elsewhere = await world.process()
    before = await world.fingerprint()
    with pytest.raises(InvalidStateTransitionError, match="migrated"):
        await elsewhere.coordinator.abort_migration(migration.id)
    assert await world.fingerprint() == before


async def test_the_tenant_moves_after_an_aborted_attempt(world: World) -> None:
    async with held_in(world, "bulk_copy") as (migration, _):
        await world.coordinator.abort_migration(migration.id)
    again = await world.migrate()
    assert again.position_offset == 0
    await world.assert_moved(again)
    history = await world.coordinator.get_migrations_by_tenant(world.tenant)
    assert [m.state for m in history] == ["rolled_back", "migrated"]
    assert await world.coordinator.get_active_migrations() == []


async def test_an_abort_is_in_the_audit_log_with_reason_and_operator(world: World) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        await world.coordinator.abort_migration(migration.id, reason="why not", operator="eve")
    *_, asked, done = await audit(world, migration)
    assert (asked.event_type, asked.operator) == ("abort_requested", "eve")
    assert asked.details == done.details == {"reason": "why not"}
    assert done.event_type == "state:rolled_back"
