"""Moves with a deadline, and pauses of moves and of people."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from eventsource.migration import (
    DeadlineReachedError,
    MigrationPausedError,
    MigrationState,
    RetryLaterError,
)
from tests.support.application import SOURCE
from tests.support.held_migration import SLOW, cursor
from tests.support.whole_moves import copying, migrations, move
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
