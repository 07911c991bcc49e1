"""A process that drives a migration is killed, and another one resumes within the dead one's lease.

``RESTARTS`` says how often; ``make restarts`` plays 200.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from functools import partial
from uuid import UUID, uuid4

import pytest

from eventsource.migration import InvalidStateTransitionError, Migration, MigrationState
from tests.support.driver_process import DriverProcess
from tests.support.waiting import until
from tests.support.worlds.two_servers import World

RESTARTS = int(os.environ.get("RESTARTS", "4"))

#: Rounds that are played beside each other.
BESIDE = 3

#: Long enough that the lease of the dead driver is in force whenever it is resumed.
LEASE_SECONDS = 2.0

#: I11, with the lease of the dead one before it.
RESUMED_WITHIN = 30.0 + LEASE_SECONDS

#: How long a move of this size takes undisturbed, and a little more (seconds).
LONGEST_MOVE = 1.2

_CONFIG = {"lease_seconds": LEASE_SECONDS, "pass_interval_seconds": 0.05}


@pytest.mark.timeout(60 * RESTARTS)
async def test_the_process_that_resumes_at_once_drives_it_to_the_end(world: World) -> None:
    chance = random.Random(RESTARTS)
    beside = asyncio.Semaphore(BESIDE)

    async def play(number: int) -> str:
        async with beside:
            tenant = uuid4()
            await world.seed([tenant], events=200, streams=10)
            return await _kill_and_resume_once(world, tenant, number, chance)

    left_in = await asyncio.gather(*map(play, range(RESTARTS)))
    # Otherwise the moments were not random.
    assert len(set(left_in)) > 1 or RESTARTS < 10, left_in


async def _kill_and_resume_once(
    world: World, tenant: UUID, number: int, chance: random.Random
) -> str:
    job = {"tenant": tenant, "config": _CONFIG, "steps": ["start", "cutover"]}
    with DriverProcess(world, f"killed-{number}", **job) as driver:
        await until(partial(_is_asked_for, world, tenant), f"its request: {driver.output()}")
        await asyncio.sleep(chance.uniform(0, LONGEST_MOVE))
        if driver.is_running:
            driver.kill()
    left = await _migration_of(world, tenant)
    began = time.monotonic()
    if left.state is not MigrationState.MIGRATED:
        try:
            await world.coordinator.resume_migration(left.id)
        except InvalidStateTransitionError as error:
            assert error.current == MigrationState.MIGRATED  # noqa: PT017
    # Nothing is called from here on: the journal is read with plain SQL.
    await until(partial(_has_moved, world, left.id), f"the end, from {left.state}", RESUMED_WITHIN)
    assert time.monotonic() - began < RESUMED_WITHIN
    assert await _rows(world, tenant) == 200
    return left.state


async def _is_asked_for(world: World, tenant: UUID) -> bool:
    return bool(
        await world.control_pool.fetchval(
            "select exists (select from tenant_migrations where tenant_id = $1"
            " and (cutover_request is not null or state = 'migrated'))",
            str(tenant),
        )
    )


async def _migration_of(world: World, tenant: UUID) -> Migration:
    (migration,) = await world.coordinator.get_migrations_by_tenant(tenant)
    return migration


async def _has_moved(world: World, migration_id: UUID) -> bool:
    state = await world.control_pool.fetchval(
        "select state from tenant_migrations where id = $1", migration_id
    )
    assert state not in ("failed", "rolled_back")
    return bool(state == "migrated")


async def _rows(world: World, tenant: UUID) -> int:
    return int(
        await world.target_store.pool.fetchval(
            'select count(*) from "events_dedicated-a" where tenant_id = $1', tenant
        )
    )
