"""The throttle spares the servers during the copy, and never lengthens the pause of the writers."""

from __future__ import annotations

from uuid import uuid4

import pytest

from eventsource.migration import InvalidStateTransitionError, MigrationNotFoundError
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.migration.steps.passes import Passes
from tests.support.copy_pace import copied
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, table

RATE = 10.0
LATE = 12

LIMIT = 1000.0
WINDOW_ROWS = 4000
WINDOWS = 4


@pytest.mark.alone
async def test_the_last_pass_is_not_throttled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the rate of the copy, the events that are left would hold the writers for over a second.
    prepare_last = Passes.prepare_last

    async def with_late_events(passes: Passes) -> None:
        await world.seed(LATE)
        await prepare_last(passes)

    monkeypatch.setattr(Passes, "prepare_last", with_late_events)
    process = await world.process(
        max_events_per_second=RATE, mirror_writes=False, cutover_timeout_seconds=5.0
    )
    await world.seed(3)
    migration = await world.dual_write(process=process)
    migration = await process.coordinator.initiate_cutover(migration.id, force=True)
    assert migration.cutover_pause_ms is not None
    assert migration.cutover_pause_ms < 1000 * LATE / RATE / 2
    assert len(await world.ids("target")) == 3 + LATE


@pytest.mark.alone
async def test_a_limit_is_kept_and_changed_by_another_process_while_the_copy_runs(
    world: World,
) -> None:
    await world.seed(30_000)
    driver = await world.process(max_events_per_second=200, mirror_writes=False)
    migration = await driver.start(world.tenant, operator="ann")
    await world.reach(migration, "bulk_copy")
    at = await copied(world, beyond=0)
    changed = await world.coordinator.set_rate(migration.id, LIMIT, operator="bob")
    assert changed.config.max_events_per_second == LIMIT
    # Beyond what the limit before could have carried by now, so that it holds no more.
    at = await copied(world, beyond=at.rows + 1000)
    # A busy machine may stall a window of some seconds. It does not stall them all, and no window
    # of a throttle that is wrong is right.
    measured = []
    for _ in range(WINDOWS):
        began, at = at, await copied(world, beyond=at.rows + WINDOW_ROWS)
        measured.append((at.rows - began.rows) / (at.seconds - began.seconds))
        if abs(measured[-1] / LIMIT - 1) <= 0.05:
            break
    else:
        raise AssertionError(f"{measured} events/s instead of {LIMIT}")
    await world.coordinator.set_rate(migration.id, None, operator="cid")
    migration = await world.reach(migration, "dual_write")
    assert migration.config.max_events_per_second is None
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    entries = await log.get_by_migration(migration.id)
    assert [
        (entry.operator, entry.details) for entry in entries if entry.event_type == "rate_set"
    ] == [("bob", {"max_events_per_second": LIMIT}), ("cid", {"max_events_per_second": None})]


async def test_the_next_driver_keeps_the_limit_that_was_changed(world: World) -> None:
    await world.seed(400)
    first = await world.process(max_events_per_second=100_000.0, mirror_writes=False)
    migration = await world.dual_write(process=first)
    await first.stop()
    await world.coordinator.set_rate(migration.id, 20.0)
    await world.seed(40)
    second = await world.process()
    await second.coordinator.resume_migration(migration.id)

    async def arrived() -> bool:
        return len(await world.ids("target")) == 440

    await until(arrived, "the new rows")
    # A chunk is a quarter of a second's worth and a transaction of its own; without a limit all
    # rows are one.
    chunks = await world.target.fetchval(
        f"select count(distinct transaction_id) from {table('target')} where global_position >"
        f" (select global_position from {table('target')} order by 1 limit 1 offset 399)"
    )
    assert chunks >= 40 / (20.0 / 4)


async def test_a_limit_is_refused_when_it_is_none_or_the_migration_is_over(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    for rate in (0, -1, float("nan"), 1e12):
        with pytest.raises(ValueError, match="max_events_per_second"):
            await world.coordinator.set_rate(migration.id, rate)
    await world.coordinator.abort_migration(migration.id)
    with pytest.raises(InvalidStateTransitionError):
        await world.coordinator.set_rate(migration.id, 10)
    with pytest.raises(MigrationNotFoundError):
        await world.coordinator.set_rate(uuid4(), 10)
