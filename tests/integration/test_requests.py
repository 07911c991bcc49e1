"""What operators ask for, from a process that does not drive the migration."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from world import SOURCE, TARGET, World, insert, someone_blocked, until, writing

from eventsource.dataplane import PassSession
from eventsource.migration import (
    InvalidStateTransitionError,
    Migration,
    MigrationState,
    TenantMigrationState,
    guard,
)
from eventsource.migration.errors import LeaseLostError
from eventsource.migration.repositories import AuditEntry, PostgreSQLAuditLogRepository
from eventsource.migration.states import TRANSITIONS

#: Ten chunks of twenty rows, about 70 ms each.
SLOW = {"batch_size": 1, "max_events_per_second": 300}
EVENTS = 200

STATES = ("pending", "bulk_copy", "dual_write")


@asynccontextmanager
async def held_in(
    world: World, state: str, **settings: Any
) -> AsyncIterator[tuple[Migration, dict[str, Any]]]:
    """A migration that another process drives and that stays in ``state`` for a while.

    Also the fingerprint of the databases right before it was started.
    """
    driver = await world.process(**{**(SLOW if state == "bulk_copy" else {}), **settings})
    await world.seed(EVENTS)
    if state == "pending":
        # No trigger can be made beside this.
        async with world.open_transaction(world.other):
            before = await world.fingerprint(journal=False)
            migration = await driver.start(world.tenant, operator="ann")
            await someone_blocked(world, "select%eventsource_guard_renew%")
            yield migration, before
        return
    before = await world.fingerprint(journal=False)
    migration = await driver.start(world.tenant, operator="ann")
    migration = await world.reach(migration, state)
    if state == "bulk_copy":
        await cursor(world)
    yield migration, before


async def cursor(world: World) -> int:
    """Where the copy stands, once it has begun."""
    return await until(
        lambda: world.target.fetchval("select last_position from eventsource_copy_progress"),
        "the first chunk",
    )


async def audit(world: World, migration: Migration) -> list[AuditEntry]:
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    return await log.get_by_migration(migration.id)


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


async def test_what_was_mirrored_goes_with_the_abort_and_nothing_follows(world: World) -> None:
    async with held_in(world, "dual_write", pass_interval_seconds=60) as (migration, before):
        await world.here.append(world.tenant)
        await until(lambda: _mirrors(world), "a mirrored append")
        appending = asyncio.create_task(_append_for_ever(world))
        await world.coordinator.abort_migration(migration.id)
        await world.here.append(world.tenant)
        appending.cancel()
    assert not await world.ids("target")
    after = await world.fingerprint(journal=False)
    assert _of(after, "target") == _of(before, "target")
    await until(lambda: _mirroring_ended(world), "the mirror to end")
    assert not await world.ids("target")


async def _mirrors(world: World) -> bool:
    await world.here.append(world.tenant)
    stats = world.router.dual_write_stats(world.tenant)
    return stats is not None and stats.mirrored > 0


async def _mirroring_ended(world: World) -> bool:
    return world.router.dual_write_stats(world.tenant) is None


async def _append_for_ever(world: World) -> None:
    while True:
        await world.here.append(world.tenant)


def _of(fingerprint: dict[str, Any], side: str) -> dict[str, Any]:
    return {name: value for name, value in fingerprint.items() if name.startswith(side)}


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
    cleaner = await world.connect(**{guard.MIGRATOR_SETTING: str(migration.id)})
    await cleaner.execute("delete from events where tenant_id = $1", world.tenant)


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


async def test_a_mirrored_append_is_no_lag_before_its_pass(world: World) -> None:
    async with held_in(world, "dual_write", pass_interval_seconds=60) as (migration, _):
        await until(lambda: _mirrors(world), "a mirrored append")
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
    calls = {
        "pause": here.pause_migration,
        "resume": here.resume_migration,
        "abort": here.abort_migration,
        "cutover": here.initiate_cutover,
    }
    for state, refused in (
        ("cutover_paused", ["pause"]),
        ("paused", ["cutover"]),
        ("failed", ["pause", "resume", "cutover"]),
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


async def test_an_abort_is_in_the_audit_log_with_reason_and_operator(world: World) -> None:
    async with held_in(world, "dual_write") as (migration, _):
        await world.coordinator.abort_migration(migration.id, reason="why not", operator="eve")
    *_, asked, done = await audit(world, migration)
    assert (asked.event_type, asked.operator) == ("abort_requested", "eve")
    assert asked.details == done.details == {"reason": "why not"}
    assert done.event_type == "state:rolled_back"


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


async def _hears(process: Any, world: World, state: str) -> bool:
    return (await process.router.route(world.tenant)).migration_state == TenantMigrationState(state)
