"""What a move takes of the memory of the process that drives it."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from eventsource.migration import MigrationState
from tests.support.driver_process import DriverProcess
from tests.support.waiting import until
from tests.support.worlds.two_servers import World

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory of another process is in /proc"
)

#: Of the payload of the large event, of 1024 x 1024 bytes each.
LARGE = 100
SMALL_EVENTS = 1000

#: What else may differ between two processes (MB).
APART = 10


@pytest.mark.alone
@pytest.mark.parametrize("before", ["bulk copy", "catch-up pass"])
async def test_an_event_of_a_hundred_megabytes_takes_a_few_times_its_size(
    world: World, before: str
) -> None:
    """One copy for each session that it passes: no part of the way makes another of its own.

    The chunk is a part of the buffer that the source's session has read it into, and what the
    target's session reads back is in that one's. Sessions keep their buffer until they read again,
    so it is two, and two more for the sessions that compare both sides before the cutover. All four
    are seldom seen at once.
    """
    usual = await peak_of_a_move(world, "usual")
    peak = await peak_of_a_move(world, "large", before)
    assert usual + LARGE < peak < usual + 4 * LARGE + APART, f"{usual:.0f} MB and {peak:.0f} MB"


async def peak_of_a_move(world: World, name: str, before: str | None = None) -> float:
    """MB that a process has had at most when it has moved a tenant, with a large event or without.

    The event is written before the bulk copy, or before a catch-up pass.
    """
    tenant, gate = uuid4(), f"cutover-{name}"
    await world.seed([tenant], SMALL_EVENTS)
    if before == "bulk copy":
        await append_large(world, tenant)
    steps = ["start", "follow", f"gate:{gate}", "cutover", "stay"]
    with DriverProcess(world, name, tenant=tenant, steps=steps) as driver:
        await until(lambda: _is_in(world, tenant, MigrationState.DUAL_WRITE), "the bulk copy")
        if before == "catch-up pass":
            await append_large(world, tenant)
            await until(lambda: _has_large(world, tenant), "the large event at the target")
        (world.directory / gate).touch()
        await until(lambda: _is_in(world, tenant, MigrationState.MIGRATED), "the cutover")
        assert driver.is_running, driver.output()
        peak = driver.peak_memory_mb()
    assert await _has_large(world, tenant) is (before is not None)
    return peak


async def append_large(world: World, tenant: UUID) -> None:
    await world.source_store.pool.execute(
        f"insert into {world.source_store.table} (event_id, aggregate_id, aggregate_type,"
        " event_type, tenant_id, version, timestamp, payload) values (gen_random_uuid(),"
        " gen_random_uuid(), 'Large', 'acceptance.Large', $1, 1, now(),"
        f" jsonb_build_object('text', repeat('x', {LARGE} * 1024 * 1024)))",
        tenant,
    )


async def _is_in(world: World, tenant: UUID, state: MigrationState) -> bool:
    migrations = await world.coordinator.get_migrations_by_tenant(tenant)
    return bool(migrations) and migrations[-1].state is state


async def _has_large(world: World, tenant: UUID) -> bool:
    """Whether the target has the large event."""
    return bool(
        await world.target_store.pool.fetchval(
            f"select exists (select from {world.target_store.table} where tenant_id = $1"
            " and event_type = 'acceptance.Large'"
            f" and length(payload->>'text') = {LARGE} * 1024 * 1024)",
            tenant,
        )
    )
