"""What the guard leaves behind at the target once a tenant has arrived: nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from eventsource.migration import MigrationState
from eventsource.migration.tables import guard
from tests.support.application import writing
from tests.support.at_the_cutover import Stop
from tests.support.one_fence import refused, triggers
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table


async def test_a_tenant_that_has_arrived_has_no_triggers(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    assert len(await triggers(world, "target")) == 3
    async with writing(world.here, world.tenant):
        done = await world.coordinator.initiate_cutover(migration.id)
        # No waiting: the call comes back when its driver has tidied up.
        assert await triggers(world, "target") == []
    assert len(await triggers(world, "source")) == 3
    await insert(await world.connect("target"), world.tenant, side="target")
    await world.assert_moved(done)


async def test_one_that_is_still_arriving_keeps_its_own(world: World) -> None:
    await world.seed(3)
    await world.seed(3, world.other)
    await world.dual_write(world.other)
    theirs = await triggers(world, "target")
    await world.migrate()
    assert await triggers(world, "target") == theirs
    await refused(insert(world.target, world.other, side="target"), "EVF03")


async def test_what_a_lost_driver_left_goes_with_the_next_tenant_that_arrives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(3)
    await world.seed(3, world.other)
    driver = await world.process()
    migration = await world.dual_write(process=driver)
    stop = Stop(monkeypatch, guard, "drop_idle")
    asked = asyncio.create_task(driver.coordinator.initiate_cutover(migration.id))
    await stop.kill(driver)
    done = await asked
    assert done.state is MigrationState.MIGRATED
    assert len(await triggers(world, "target")) == 3
    await insert(world.target, world.tenant, side="target")
    await world.migrate(world.other)
    assert await triggers(world, "target") == []


@pytest.mark.alone
async def test_a_long_query_at_the_target_holds_up_neither_the_cutover_nor_anybody_else(
    world: World,
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    reader = await world.connect("target")
    await reader.execute(f"begin; select from {table('target')}")
    longest = 0.0
    writing_on = True

    async def write_on() -> None:
        nonlocal longest
        connection = await world.connect("target")
        while writing_on:
            began = time.monotonic()
            await insert(connection, world.other, side="target")
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.001)

    writer = asyncio.create_task(write_on())
    async with asyncio.timeout(2 * guard.TIDY_SECONDS + 1):
        asked = asyncio.create_task(world.coordinator.initiate_cutover(migration.id, force=True))
        await until(lambda: _waits(world), "a try for the table's lock")
        done = await asked
    writing_on = False
    await writer
    assert done.cutover_pause_ms is not None
    assert done.cutover_pause_ms < 1000
    assert len(await triggers(world, "target")) == 3
    # 20 ms by design; the rest is for a busy machine.
    assert longest < 0.15
    await reader.execute("rollback")
    await insert(world.target, world.tenant, side="target")


async def _waits(world: World) -> bool:
    return bool(
        await world.target.fetchval(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            " and query ilike 'lock table%' and datname = current_database()"
        )
    )
