"""What operators ask for, from a process that does not drive the migration."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from uuid import uuid4

import pytest

from eventsource.dataplane import PassSession
from eventsource.migration import (
    InvalidStateTransitionError,
    Migration,
    MigrationState,
    TenantMigrationState,
)
from eventsource.migration.errors import LeaseLostError
from eventsource.migration.repositories import AuditEntry
from eventsource.migration.states import TRANSITIONS
from tests.support.application import Process
from tests.support.held_migration import EVENTS, SLOW, STATES, audit, cursor, held_in, mirrors
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert


@pytest.mark.parametrize("state", STATES)
async def test_pause_and_resume_from_another_process(world: World, state: str) -> None:
    async with held_in(world, state) as (migration, _):
        paused = await world.coordinator.pause_migration(migration.id)
        assert (paused.state, paused.paused_from) == ("paused", state)
        assert await world.coordinator.pause_migration(migration.id) == paused
        with pytest.raises(InvalidStateTransitionError):
            await world.coordinator.initiate_cutover(migration.id)
    copied = await world.rows("target")
    assert len(copied) < EVENTS or state == "dual_write"
    await world.here.append(world.tenant)
    resumed = await world.coordinator.resume_migration(migration.id)
    # It may have come further by now.
    assert STATES.index(resumed.state) >= STATES.index(state)
    assert resumed.paused_from is None
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert (await world.rows("target"))[: len(copied)] == copied
    await world.assert_moved(done)


@pytest.mark.parametrize("place", ["same", "another"])
async def test_a_migration_that_is_resumed_at_once_is_driven_on(
    world: World, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The driver that was paused is still closing its connections then."""
    close = PassSession.close

    async def close_slowly(self: PassSession) -> None:
        await asyncio.sleep(0.1)
        await close(self)

    monkeypatch.setattr(PassSession, "close", close_slowly)
    await world.seed(10)
    migration = await world.dual_write()
    asking = world.here if place == "same" else await world.process()
    for count in range(11, 14):
        await asking.coordinator.pause_migration(migration.id)
        resumed = await asking.coordinator.resume_migration(migration.id)
        assert resumed.driver_alive
        await insert(world.source, world.tenant)
        await until(partial(_rows_at_target, world, count), "the new row")


async def _rows_at_target(world: World, count: int) -> bool:
    return len(await world.ids("target")) == count


async def test_a_paused_copy_stops_at_a_chunk_and_goes_on_at_its_cursor(world: World) -> None:
    async with held_in(world, "bulk_copy") as (migration, _):
        for _ in range(2):
            await world.coordinator.pause_migration(migration.id)
            stopped = await cursor(world)
            assert stopped % 20 == 0
            assert len(await world.ids("target")) == stopped < EVENTS
            await world.coordinator.resume_migration(migration.id)
            await until(partial(_moved_past, world, stopped), "the next chunk")
    await world.reach(migration, "dual_write")
    # Sessions tell what they wrote when they end.
    await world.coordinator.pause_migration(migration.id)
    for process in world.processes:
        await process.stop()
    written = await until(
        lambda: world.target.fetchval(
            "select n_tup_ins from pg_stat_user_tables where relname like 'events%'"
            " and n_tup_ins >= $1",
            EVENTS,
        ),
        "statistics",
    )
    assert written == EVENTS == len(await world.ids("target"))


async def _moved_past(world: World, position: int) -> bool:
    return await cursor(world) > position


@pytest.mark.alone
async def test_start_returns_before_anything_is_copied(world: World) -> None:
    await world.seed(EVENTS)
    async with world.open_transaction(world.tenant):
        began = time.monotonic()
        migration = await world.here.start(world.tenant)
        assert time.monotonic() - began < 1
        assert migration.state is MigrationState.PENDING
    await world.reach(migration, "dual_write")


async def test_another_process_takes_up_what_a_stopped_one_left(world: World) -> None:
    async with held_in(world, "bulk_copy") as (migration, _):
        driver = world.processes[-1]
        await driver.stop()
        left = await world.coordinator.get_migration(migration.id)
        assert (left.state, left.driver_alive) == ("bulk_copy", False)
        working = asyncio.create_task(world.coordinator.work(poll_seconds=0.05))
        await world.reach(migration, "dual_write")
        working.cancel()
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    await world.assert_moved(done)


async def test_the_stream_of_status_shows_the_whole_way_to_any_process(world: World) -> None:
    await world.seed(EVENTS)
    driver = await world.process(**SLOW)
    migration = await driver.start(world.tenant)
    seen: list[Migration] = []
    async for status in world.coordinator.stream_status(migration.id):
        seen.append(status)
        if status.state is MigrationState.DUAL_WRITE and status.cutover_request is None:
            cutting = asyncio.create_task(
                driver.coordinator.initiate_cutover(migration.id, force=True)
            )
    await cutting
    states = [status.state for status in seen]
    assert states[0] == "pending"
    assert states[-1] == "migrated"
    assert {"bulk_copy", "dual_write"} <= set(states)
    assert all(a.events_copied <= b.events_copied for a, b in pairwise(seen))
    assert any(0 < status.progress_percentage < 100 for status in seen)
    assert seen[-1].progress_percentage == 100


async def test_two_processes_ask_for_the_cutover_at_once(world: World) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        asked = [p.coordinator.initiate_cutover(migration.id) for p in world.processes * 2]
        done = await asyncio.gather(*asked)
    assert {m.state for m in done} == {MigrationState.MIGRATED}
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert route.generation == migration.generation + 1

    async def audited() -> list[str] | None:
        events = [entry.event_type for entry in await audit(world, migration)]
        return events if "cutover" in events else None

    # Whoever waits is answered first.
    events = await until(audited, "the cutover in the audit log")
    assert [events.count(e) for e in ("cutover_requested", "state:migrated", "cutover")] == [1] * 3
    again = await world.coordinator.initiate_cutover(migration.id)
    assert again.completed_at == done[0].completed_at
    await world.assert_moved(done[0])


async def test_a_cutover_asked_for_during_the_bulk_copy_follows_it(world: World) -> None:
    async with held_in(world, "bulk_copy") as (migration, _):
        done = await world.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    await world.assert_moved(done)


@pytest.mark.parametrize("request_", ["pause", "abort"])
async def test_whoever_waits_for_a_cutover_hears_that_it_was_stopped(
    world: World, request_: str
) -> None:
    async with held_in(world, "bulk_copy") as (migration, _):
        waiting = asyncio.create_task(world.coordinator.initiate_cutover(migration.id))
        await until(lambda: _cutover_asked(world, migration), "the request")
        coordinator = world.processes[-1].coordinator
        await getattr(coordinator, f"{request_}_migration")(migration.id)
        with pytest.raises(InvalidStateTransitionError):
            await waiting


async def _cutover_asked(world: World, migration: Migration) -> bool:
    return (await world.here.migrations.get(migration.id)).cutover_request is not None


async def test_the_lag_is_what_the_source_shows_and_the_target_lacks(world: World) -> None:
    lag = world.coordinator.get_sync_lag
    async with held_in(world, "pending") as (migration, _):
        assert await lag(migration.id) == EVENTS
    await world.reach(migration, "dual_write")
    await until(lambda: _lag_is(world, migration, 0), "no lag")
    await world.coordinator.pause_migration(migration.id)
    async with world.open_transaction(world.tenant) as late:
        await world.seed(7)
        await world.seed(4, world.other)
        assert await lag(migration.id) == 7
        await late.execute("commit")
    assert await lag(migration.id) == 8
    await world.coordinator.resume_migration(migration.id)
    await until(lambda: _lag_is(world, migration, 0), "no lag")
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    await world.here.append(world.tenant)
    assert await lag(done.id) == 0
    await world.assert_moved(done)


async def _lag_is(world: World, migration: Migration, wanted: int) -> bool:
    return await world.coordinator.get_sync_lag(migration.id) == wanted


async def test_the_lag_shrinks_with_the_bulk_copy(world: World) -> None:
    async with held_in(world, "bulk_copy") as (migration, _):
        await world.coordinator.pause_migration(migration.id)
        copied = len(await world.ids("target"))
        await world.seed(5)
        assert await world.coordinator.get_sync_lag(migration.id) == EVENTS - copied + 5


async def test_what_is_over_without_a_move_has_no_lag_of_zero(world: World) -> None:
    """Once it had: as of one whose target holds everything."""
    await world.seed(EVENTS)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.seed(7)
    await world.control.execute(
        "update tenant_migrations set state = 'failed', paused_from = 'dual_write'"
    )
    assert await world.coordinator.get_sync_lag(migration.id) == 7
    await world.coordinator.abort_migration(migration.id)
    with pytest.raises(InvalidStateTransitionError, match="rolled_back and cannot have a lag"):
        await world.coordinator.get_sync_lag(migration.id)


async def test_a_mirrored_append_is_no_lag_before_its_pass(world: World) -> None:
    async with held_in(world, "dual_write", pass_interval_seconds=60) as (migration, _):
        await until(lambda: mirrors(world), "a mirrored append")
        passes = "select pass_number from eventsource_copy_progress"
        before = await world.target.fetchval(passes)
        await world.here.append(world.tenant)
        await until(lambda: _lag_is(world, migration, 0), "no lag")
        assert await world.target.fetchval(passes) == before


async def test_every_illegal_transition_is_refused_and_changes_nothing(world: World) -> None:
    await world.seed(1)
    migration = await world.dual_write()
    await world.here.coordinator.pause_migration(migration.id)
    await world.here.coordinator.close()
    for state in MigrationState:
        await world.control.execute("update tenant_migrations set state = $1", state.value)
        current = await world.here.migrations.get(migration.id)
        before = await world.fingerprint()
        for following in MigrationState:
            if following not in TRANSITIONS[state]:
                with pytest.raises(InvalidStateTransitionError) as caught:
                    await world.here.migrations.transition(current, following)
                assert caught.value.current == state
                assert str(following) in str(caught.value)
        # A legal one from a state that is no longer the current one.
        for stale in MigrationState:
            for following in TRANSITIONS[stale] if stale is not state else ():
                with pytest.raises(InvalidStateTransitionError):
                    await world.here.migrations.transition(replace(current, state=stale), following)
        for following in TRANSITIONS[state]:
            with pytest.raises(LeaseLostError):
                await world.here.migrations.transition(current, following, owner=uuid4())
        assert await world.fingerprint() == before


async def test_a_request_that_the_state_forbids_changes_nothing(world: World) -> None:
    here = world.coordinator
    migration = await world.dual_write()
    await here.pause_migration(migration.id)
    # Nobody is to take up what the states below seem to be.
    await here.close()
    calls = {
        "pause": here.pause_migration,
        "resume": here.resume_migration,
        "abort": here.abort_migration,
        "cutover": here.initiate_cutover,
    }
    for state, refused in (
        ("cutover_paused", ["pause"]),
        ("paused", ["cutover"]),
        ("failed", ["pause", "cutover"]),
        ("rolled_back", ["pause", "resume", "cutover"]),
        ("migrated", ["pause", "resume", "abort"]),
    ):
        await world.control.execute("update tenant_migrations set state = $1", state)
        before = await world.fingerprint()
        for name in refused:
            with pytest.raises(InvalidStateTransitionError) as caught:
                await calls[name](migration.id)
            assert caught.value.current == state
        assert await world.fingerprint() == before


async def test_every_transition_and_request_is_in_the_audit_log_with_its_operator(
    world: World,
) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        here = world.coordinator
        await here.pause_migration(migration.id, operator="bob")
        await here.resume_migration(migration.id, operator="cat")
        await here.initiate_cutover(migration.id, operator="dan")

    async def whole() -> list[AuditEntry] | None:
        entries = await audit(world, migration)
        return entries if entries[-1].event_type == "cutover" else None

    told = [(entry.event_type, entry.operator) for entry in await until(whole, "the last entry")]
    assert told == [
        ("state:pending", "ann"),
        ("state:bulk_copy", None),
        ("state:dual_write", None),
        ("pause_requested", "bob"),
        ("state:paused", None),
        ("state:dual_write", "cat"),
        ("cutover_requested", "dan"),
        ("state:cutover_paused", None),
        ("state:migrated", None),
        ("cutover_answered", None),
        ("cutover", None),
    ]


async def test_the_route_follows_the_state_and_every_router_hears_of_it(world: World) -> None:
    elsewhere = await world.process(route_ttl_seconds=60)
    await elsewhere.router.route(world.tenant)
    async with held_in(world, "bulk_copy") as (migration, _):
        await until(lambda: _hears(elsewhere, world, "bulk_copy"), "bulk_copy")
        await world.reach(migration, "dual_write")
        await until(lambda: _hears(elsewhere, world, "dual_write"), "dual_write")
        await world.coordinator.pause_migration(migration.id)
        assert await _hears(elsewhere, world, "dual_write")
        await world.coordinator.abort_migration(migration.id)
        await until(lambda: _hears(elsewhere, world, "normal"), "normal")
    await insert(world.source, world.tenant)


async def _hears(process: Process, world: World, state: str) -> bool:
    route = await process.router.route(world.tenant)
    return route.migration_state is TenantMigrationState(state)
