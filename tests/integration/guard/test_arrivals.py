"""What the guard leaves behind at the target once a tenant has arrived: nothing."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from eventsource.migration import MigrationState
from eventsource.migration.event_table import EventTable
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
    # Whether it still got its answer does not matter: the process that asked is gone.
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    left = await world.here.migrations.get(migration.id)
    assert left.state is MigrationState.MIGRATED
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


async def test_drivers_that_tidy_up_at_the_same_moment_do_not_meet_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks, waits for the lock, and finds what the one before it has left."""
    tenants = [world.tenant, world.other, *(uuid4() for _ in range(2))]
    for tenant in tenants:
        await world.seed(3, tenant)
    drop_idle = guard.drop_idle

    async def leave(*_: object) -> None:
        return None

    monkeypatch.setattr(guard, "drop_idle", leave)
    for tenant in tenants:
        await world.migrate(tenant)
    assert len(await triggers(world, "target")) == 3 * len(tenants)
    address = await world.here.target.address()
    holder = await world.connect("target")
    await holder.execute(f"begin; lock table {table('target')} in share mode")
    connections = [await world.connect("target") for _ in range(6)]
    tidying = [
        asyncio.create_task(drop_idle(EventTable(connection, address), 20.0))
        for connection in connections
    ]
    # Everybody has looked, and is waiting.
    await asyncio.sleep(0.3)
    await holder.execute("rollback")
    await asyncio.gather(*tidying)
    assert await triggers(world, "target") == []


async def test_tenants_that_cut_over_at_the_same_moment_end_without_a_message(
    world: World,
) -> None:
    tenants = [world.tenant, world.other, uuid4()]
    for tenant in tenants:
        await world.seed(3, tenant)
    moving = [await world.dual_write(tenant) for tenant in tenants]
    await asyncio.gather(
        *(world.coordinator.initiate_cutover(each.id, force=True) for each in moving)
    )
    for each in moving:
        done = await world.coordinator.get_migration(each.id)
        assert (done.state, done.error_message) == (MigrationState.MIGRATED, None)


async def test_who_says_it_is_a_migration_that_is_over_is_waited_for_as_everybody(
    world: World,
) -> None:
    """Its tenant lives there: what is written for it appears in order, or readers would pass it."""
    migration = await world.migrate()
    late = await world.connect("target", **{"eventsource.migration": str(migration.id)})
    await late.execute("begin")
    position = (await insert(late, world.tenant, side="target"))["global_position"]
    await insert(await world.connect("target"), world.other, side="target")
    seen = [event.global_position async for event in world.here.target.read_all()]
    assert all(each < position for each in seen)
    await late.execute("commit")
    assert len([event async for event in world.here.target.read_all()]) == len(seen) + 2
