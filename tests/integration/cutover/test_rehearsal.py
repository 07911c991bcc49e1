"""The rehearsal: everything of a cutover but the decision."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from eventsource.cli.under_way import rehearsed
from eventsource.migration import CutoverTimeoutError, InvalidStateTransitionError, Migration
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.migration.steps import cutover
from eventsource.migration.steps.passes import Passes
from tests.support.application import Writers, writing
from tests.support.at_the_cutover import (
    BUDGET,
    MARGIN,
    Stop,
    assert_at_the_target,
    assert_still_at_the_source,
    stands_in,
)
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert


async def test_a_rehearsal_decides_nothing_and_loses_nothing(world: World) -> None:
    await world.seed(30)
    migration = await world.dual_write()
    found = await world.coordinator.rehearse_cutover(migration.id, operator="ada")
    assert found.fits
    assert found.pause_ms is not None
    assert 0 < found.pause_ms < BUDGET * 1000
    assert found.lock_wait_ms is not None
    assert found.lock_wait_ms <= found.pause_ms
    await assert_still_at_the_source(world)
    assert await stands_in(world, migration, "dual_write")
    await insert(world.source, world.tenant)
    done = await world.coordinator.initiate_cutover(migration.id)
    assert len(await world.ids("target")) == 32
    await assert_at_the_target(world, done)


@pytest.mark.alone
async def test_writers_go_on_through_rehearsals_without_an_error(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    elsewhere = await world.process()
    async with writing(elsewhere, world.tenant) as writers:
        for round_ in range(4):
            before = writers.acknowledged
            found = await world.coordinator.rehearse_cutover(migration.id)
            assert found.fits
            await until(partial(_wrote, writers, before + 10), f"appends, {round_}")
        done = await world.coordinator.initiate_cutover(migration.id)
    assert writers.longest < BUDGET + MARGIN
    there = len(await world.ids("target"))
    assert there == 10 + writers.acknowledged
    assert (done.events_copied, done.total_events, done.progress_percentage) == (
        await _decided_on(world),
        await _decided_on(world),
        100.0,
    )


async def _wrote(writers: Writers, count: int) -> bool:
    return writers.acknowledged >= count


async def _decided_on(world: World) -> int:
    return int(await world.source.fetchval("select decided_total from eventsource_fences"))


@pytest.mark.alone
async def test_a_rehearsal_over_its_budget_is_refused_and_names_who_is_in_the_way(
    world: World,
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    elsewhere = await world.process()
    async with (
        writing(elsewhere, world.tenant) as writers,
        world.open_transaction(world.tenant) as blocker,
    ):
        await asyncio.sleep(0.6)
        pids = [each.pid for each in await world.coordinator.in_the_way(migration.id)]
        assert pids == [blocker.get_server_pid()]
        with pytest.raises(CutoverTimeoutError) as caught:
            await world.coordinator.rehearse_cutover(migration.id, max_pause_seconds=0.3)
        assert caught.value.timeout_seconds == 0.3
        assert blocker.get_server_pid() in [each.pid for each in caught.value.blockers]
        assert writers.longest < 0.3 + MARGIN
    [one] = await world.coordinator.rehearsals(migration.id)
    assert not one.fits
    assert one.message
    assert await stands_in(world, migration, "dual_write")


async def test_rehearsals_are_kept_with_who_asked(world: World) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    for name in ("ada", "grace"):
        await world.coordinator.rehearse_cutover(migration.id, operator=name)
    found = await world.coordinator.rehearsals(migration.id)
    assert [(each.operator, each.fits) for each in found] == [("ada", True), ("grace", True)]


def _writers_that_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Task[object]]:
    """From now on one writes into each fence, which is held for a quarter of a second."""
    original = Passes.under_the_fence
    waiting: list[asyncio.Task[object]] = []

    async def slow(self: Passes) -> object:
        writer = await world.connect()
        waiting.append(asyncio.create_task(insert(writer, world.tenant)))
        await asyncio.sleep(0.25)
        return await original(self)

    monkeypatch.setattr(Passes, "under_the_fence", slow)
    return waiting


async def test_what_writers_wait_for_is_measured_at_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    waiting = _writers_that_wait(world, monkeypatch)
    found = await world.coordinator.rehearse_cutover(migration.id)
    await waiting[0]
    assert found.longest_wait_ms is not None
    assert found.pause_ms is not None
    assert 150 < found.longest_wait_ms <= found.pause_ms
    done = await world.coordinator.initiate_cutover(migration.id)
    waiting[1].cancel()
    assert done.longest_wait_ms is not None
    assert done.cutover_pause_ms is not None
    assert 150 < done.longest_wait_ms <= done.cutover_pause_ms


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEASURE_SECONDS", 0.0),
        # As of a server before version 14.
        ("_WAITING", cutover._WAITING.replace("'waitstart'", "'not there'")),
    ],
)
async def test_a_wait_that_could_not_be_measured_is_not_said_to_be_none(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """Once it was: a writer had waited 0.0 ms at most, of one that had for a quarter second."""
    await world.seed(5)
    migration = await world.dual_write()
    waiting = _writers_that_wait(world, monkeypatch)
    monkeypatch.setattr(cutover, name, value)
    found = await world.coordinator.rehearse_cutover(migration.id)
    await waiting[0]
    assert found.fits
    assert found.longest_wait_ms is None
    assert "longest wait" not in str(found)
    assert "a writer" not in rehearsed(found)
    done = await world.coordinator.initiate_cutover(migration.id)
    waiting[1].cancel()
    assert done.cutover_pause_ms is not None
    assert done.longest_wait_ms is None


async def test_a_driver_that_dies_in_a_rehearsal_leaves_the_fence_open_and_it_is_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(5)
    elsewhere = await world.process(lease_seconds=1.0)
    migration = await world.dual_write(process=elsewhere)
    halted = Stop(monkeypatch, Passes, "rehearse_commits")
    asked = asyncio.create_task(world.coordinator.rehearse_cutover(migration.id))
    await halted.kill(elsewhere)
    assert (await asyncio.wait_for(asked, 30)).fits
    await assert_still_at_the_source(world)
    done = await world.coordinator.initiate_cutover(migration.id)
    await assert_at_the_target(world, done)


async def test_a_finished_or_a_paused_migration_is_not_rehearsed(world: World) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    with pytest.raises(InvalidStateTransitionError, match="rehearse"):
        await world.coordinator.rehearse_cutover(migration.id)
    await world.coordinator.resume_migration(migration.id)
    await world.coordinator.initiate_cutover(migration.id)
    with pytest.raises(InvalidStateTransitionError, match="rehearse"):
        await world.coordinator.rehearse_cutover(migration.id)


@pytest.mark.parametrize("seconds", [0.0, 0.04, 1.5, 400.0])
async def test_a_pause_longer_than_the_guards_patience_is_refused(
    world: World, seconds: float
) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    for ask in (world.coordinator.rehearse_cutover, world.coordinator.initiate_cutover):
        with pytest.raises(ValueError, match="cutover_timeout_seconds"):
            await ask(migration.id, max_pause_seconds=seconds)
    await assert_still_at_the_source(world)


async def test_the_audit_says_force_only_where_it_was_forced(world: World) -> None:
    await world.seed(5)
    cases: list[tuple[dict[str, Any], bool, str]] = [
        ({}, False, "before the fence"),
        ({"force": True}, True, "left out"),
        ({"compared": True}, False, "done before"),
    ]
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    for options, forced, comparison in cases:
        migration: Migration = await world.dual_write()
        await world.coordinator.initiate_cutover(migration.id, **options)
        [asked] = [
            each.details
            for each in await log.get_by_migration(migration.id)
            if each.event_type == "cutover_requested"
        ]
        assert (asked["force"], asked["comparison"]) == (forced, comparison)
        world.tenant = uuid4()
        await world.seed(5)
