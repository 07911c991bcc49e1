"""Moves with a deadline, and pauses of moves and of people."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from eventsource.migration import (
    DeadlineReachedError,
    InvalidStateTransitionError,
    MigrationPausedError,
    MigrationState,
    RetryLaterError,
)
from eventsource.migration.driver import requests
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from tests.support.application import SOURCE
from tests.support.held_migration import SLOW, cursor
from tests.support.moving_process import MovingProcess
from tests.support.waiting import until
from tests.support.whole_moves import CRAWLING, copying, migrations, move
from tests.support.worlds.three_databases import World


async def test_no_move_begins_after_its_time(world: World) -> None:
    await world.seed(5)
    before = await world.fingerprint()
    with pytest.raises(DeadlineReachedError, match="nothing was begun") as caught:
        await move(world.here, world, until=datetime.now(UTC) - timedelta(seconds=1))
    assert caught.value.migration_id is None
    assert await world.fingerprint() == before


async def test_a_move_whose_time_is_over_pauses_and_the_next_one_goes_on(world: World) -> None:
    await world.seed(200)
    slow = await copying(world)
    with pytest.raises(DeadlineReachedError) as caught:
        await move(slow, world, until=datetime.now(UTC) + timedelta(seconds=0.2))
    assert isinstance(caught.value, RetryLaterError)
    assert caught.value.migration_id is not None
    parked = await world.here.migrations.get(caught.value.migration_id)
    assert (parked.state, parked.parked) == (MigrationState.PAUSED, True)
    assert 0 < len(await world.ids("target")) < 200
    with pytest.raises(DeadlineReachedError):
        await move(world.here, world, until=datetime.now(UTC))
    await world.coordinator.set_rate(parked.id, None)
    moved = await move(world.here, world)
    assert moved is not None
    assert (moved.id, moved.parked) == (parked.id, False)
    await world.assert_moved(moved)


async def test_a_cutover_that_has_begun_is_finished_after_the_time(world: World) -> None:
    """The fence is asked for beside a writer's open transaction when the time is over."""
    await world.seed(20)
    process = await world.process(cutover_timeout_seconds=20.0)
    begun = await process.start(world.tenant)
    await world.reach(begun, "dual_write")
    async with world.open_transaction(world.tenant):
        moving = asyncio.create_task(
            move(process, world, until=datetime.now(UTC) + timedelta(seconds=1.5))
        )
        await world.reach(begun, "cutover_paused")
        await asyncio.sleep(1.7)
        assert not moving.done()
    moved = await moving
    assert moved is not None
    assert moved.state is MigrationState.MIGRATED


async def test_a_time_needs_its_zone(world: World) -> None:
    with pytest.raises(ValueError, match="time zone"):
        await move(world.here, world, until=datetime.now())
    with pytest.raises(ValueError, match="name two stores"):
        await world.coordinator.move(world.tenant, SOURCE, SOURCE)


@pytest.mark.parametrize("parked_before", [False, True])
async def test_what_a_person_has_paused_stays_so(world: World, parked_before: bool) -> None:
    await world.seed(200)
    slow = await copying(world)
    [begun] = await slow.coordinator.get_migrations_by_tenant(world.tenant)
    if parked_before:
        with pytest.raises(DeadlineReachedError):
            await move(slow, world, until=datetime.now(UTC))
    paused = await world.coordinator.pause_migration(begun.id, operator="ann")
    assert (paused.state, paused.parked) == (MigrationState.PAUSED, False)
    with pytest.raises(MigrationPausedError, match="resume"):
        await move(world.here, world)
    assert not await world.here.migrations.request_pause(begun.id, "a move", parked=True)
    await world.coordinator.resume_migration(begun.id)
    moved = await move(world.here, world)
    assert moved is not None
    assert moved.id == begun.id


async def test_a_pause_by_a_person_ends_the_moves_that_wait(world: World) -> None:
    await world.seed(200)
    slow = await world.process(**SLOW)
    moving = asyncio.create_task(move(slow, world))
    await cursor(world)
    [begun] = await world.coordinator.get_active_migrations()
    await world.coordinator.pause_migration(begun.id)
    with pytest.raises(MigrationPausedError):
        await moving


async def test_a_pause_that_a_person_asked_for_first_is_not_parked(world: World) -> None:
    await world.seed(5)
    begun = await world.dual_write()
    await world.coordinator.close()
    assert await world.here.migrations.request_pause(begun.id, "ann")
    assert await world.here.migrations.request_pause(begun.id, "a move", parked=True)
    assert not (await world.here.migrations.get(begun.id)).parked
    assert await world.here.migrations.request_pause(begun.id, "ann")


async def test_a_move_that_waits_for_the_guard_can_be_parked(world: World) -> None:
    """Nothing has been copied yet, and the time is over."""
    await world.seed(5)
    async with world.open_transaction(world.other):
        await world.here.start(world.tenant)
        with pytest.raises(DeadlineReachedError):
            await move(world.here, world, until=datetime.now(UTC) + timedelta(seconds=0.3))
    assert await migrations(world) == ["paused"]
    assert await move(world.here, world) is not None


async def test_two_moves_with_different_times_do_not_stop_each_other(world: World) -> None:
    await world.seed(200)
    slow, patient = await copying(world), await world.process()
    short = asyncio.create_task(move(slow, world, until=datetime.now(UTC) + timedelta(seconds=0.3)))
    long = asyncio.create_task(move(patient, world))
    with pytest.raises(DeadlineReachedError):
        await short
    [begun] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    await world.coordinator.set_rate(begun.id, None)
    moved = await long
    assert moved is not None
    assert moved.id == begun.id
    await world.assert_moved(moved)


async def test_another_process_pauses_at_the_time_of_a_move_that_has_died(
    world: World, tmp_path: Path
) -> None:
    """The mover is killed before it parks, and `work` copies beside it."""
    await world.seed(200)
    at = datetime.now(UTC) + timedelta(seconds=20)
    with MovingProcess(world, tmp_path, at) as mover:
        await cursor(world)
        mover.kill()
    beside = await world.process(**CRAWLING)
    working = asyncio.create_task(beside.coordinator.work(poll_seconds=0.1))
    [begun] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    assert (begun.pause_at, begun.pause_requested) == (at, False)
    # The same time, only sooner: the copy would be over by then.
    at = datetime.now(UTC) + timedelta(seconds=1)
    await world.control.execute("update tenant_migrations set pause_at = $1", at)
    parked = await world.reach(begun, "paused")
    assert (parked.parked, parked.pause_at) == (True, None)
    assert await world.now("control") >= at
    assert 0 < len(await world.ids("target")) < 200
    working.cancel()
    await world.coordinator.set_rate(begun.id, None)
    moved = await move(world.here, world)
    assert moved is not None
    await world.assert_moved(moved)


@pytest.mark.parametrize("state", ["pending", "bulk_copy", "dual_write"])
async def test_in_each_state_whatever_drives_pauses_at_the_time(world: World, state: str) -> None:
    await world.seed(200)
    if state == "pending":
        async with world.open_transaction(world.other):
            begun = await world.here.start(world.tenant)
            await world.here.migrations.set_pause_at(begun.id, datetime.now(UTC), "ann")
            parked = await world.reach(begun, "paused")
    else:
        if state == "bulk_copy":
            await copying(world)
        else:
            await world.dual_write()
        [begun] = await world.coordinator.get_migrations_by_tenant(world.tenant)
        await world.here.migrations.set_pause_at(begun.id, datetime.now(UTC), "ann")
        parked = await world.reach(begun, "paused")
    assert (parked.paused_from, parked.parked, parked.pause_at) == (state, True, None)


async def test_the_next_move_or_a_person_has_its_own_time(world: World) -> None:
    await world.seed(5)
    begun = await world.dual_write()
    await world.coordinator.close()
    later = datetime.now(UTC) + timedelta(hours=1)
    journal = world.here.migrations
    await journal.set_pause_at(begun.id, later, "ann")
    beside = await world.process()
    await beside.coordinator.resume_migration(begun.id)
    assert (await journal.get(begun.id)).pause_at is None
    await beside.coordinator.close()
    # Over, and nobody drove it: who goes on with it has time again.
    await journal.set_pause_at(begun.id, datetime.now(UTC), "ann")
    assert (await journal.get(begun.id)).pause_requested
    third = await world.process()
    moved = await move(third, world, until=later)
    assert moved is not None
    assert moved.pause_at is None
    log = PostgreSQLAuditLogRepository(world.control)
    kinds = [each.event_type for each in await log.get_by_migration(begun.id)]
    assert kinds.count("pause_at_set") == 4
    assert "state:paused" not in kinds


async def test_a_cutover_that_a_person_asks_for_forgets_the_time_of_a_move(world: World) -> None:
    await world.seed(5)
    begun = await world.dual_write()
    await world.coordinator.close()
    await world.here.migrations.set_pause_at(begun.id, datetime.now(UTC), "ann")
    process = await world.process()
    moved = await process.coordinator.initiate_cutover(begun.id)
    assert moved.state is MigrationState.MIGRATED


async def test_more_time_in_the_last_moment_leaves_no_pause_of_a_person(world: World) -> None:
    """The driver has read that the time is over, and another move sets it later."""
    await world.seed(5)
    begun = await world.dual_write()
    await world.coordinator.close()
    journal, owner = world.here.migrations, uuid4()
    assert await journal.acquire_lease(begun.id, owner, "test", 60)
    await journal.set_pause_at(begun.id, datetime.now(UTC), "ann")
    late = await journal.get(begun.id)
    assert (late.pause_requested, late.parked) == (True, True)
    await journal.set_pause_at(begun.id, datetime.now(UTC) + timedelta(hours=1), "ann")
    with pytest.raises(InvalidStateTransitionError):
        await journal.transition(late, MigrationState.PAUSED, owner=owner)
    assert (await journal.get(begun.id)).state is MigrationState.DUAL_WRITE


async def test_a_person_who_pauses_what_is_late_pauses_it_for_good(world: World) -> None:
    await world.seed(5)
    begun = await world.dual_write()
    await world.coordinator.close()
    await world.here.migrations.set_pause_at(begun.id, datetime.now(UTC), "ann")
    process = await world.process()
    process.coordinator._drivers.stand_by(begun.id)
    paused = await process.coordinator.pause_migration(begun.id, operator="ann")
    assert (paused.state, paused.parked) == (MigrationState.PAUSED, False)


@pytest.mark.parametrize("state", ["bulk_copy", "dual_write"])
async def test_a_pass_that_was_stopped_goes_on_when_there_is_more_time_in_the_last_moment(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """A session of the data plane that was asked to stop stays so: once nothing moved any more."""
    await world.seed(200)
    driver = await copying(world)
    [begun] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    if state == "dual_write":
        await world.coordinator.set_rate(begun.id, None)
        await world.reach(begun, "dual_write")
        await world.coordinator.set_rate(begun.id, 50.0)
        await world.seed(200)
        await until(lambda: _is_under_way(world), "a pass that takes a while")
    journal, pause, given = world.here.migrations, requests.pause, asyncio.Event()

    async def pause_too_late(*arguments: Any) -> Any:
        await journal.set_pause_at(begun.id, None, "ann")
        given.set()
        return await pause(*arguments)

    monkeypatch.setattr(requests, "pause", pause_too_late)
    await journal.set_pause_at(begun.id, datetime.now(UTC), "ann")
    await asyncio.wait_for(given.wait(), 20)
    await world.coordinator.set_rate(begun.id, None)
    await world.reach(begun, "dual_write")
    moved = await asyncio.wait_for(driver.coordinator.initiate_cutover(begun.id), 30)
    await world.assert_moved(moved)


async def _is_under_way(world: World) -> bool:
    return len(await world.ids("target")) > 200
