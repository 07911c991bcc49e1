"""Several processes move the same tenant at once, and some of them are killed while they do.

``DISPATCHES`` says how many rounds are played.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from functools import partial
from uuid import UUID, uuid4

import pytest

from eventsource.migration import MigrationState
from eventsource.testing import Attempt
from tests.support.driver_process import DriverProcess
from tests.support.waiting import until
from tests.support.worlds.two_servers import World, acknowledged, all_attempts, writing

DISPATCHES = int(os.environ.get("DISPATCHES", "2"))

EVENTS = 400

#: How long a move of this size takes undisturbed, and a little more (seconds).
LONGEST_MOVE = 1.5

_CONFIG = {"lease_seconds": 2.0, "pass_interval_seconds": 0.05, "batch_size": 5}


@pytest.mark.thorough
@pytest.mark.timeout(120 * DISPATCHES)
async def test_a_tenant_that_is_dispatched_to_three_processes_moves_once(world: World) -> None:
    """Two of the three are killed; one has so little time at first that it parks the move."""
    chance = random.Random(DISPATCHES)
    for number in range(DISPATCHES):
        tenant = uuid4()
        await world.seed([tenant], events=EVENTS, streams=10)
        config = world.writer_config(f"writer-{number}", [tenant], tasks=2)
        with writing([config]) as writers:
            await acknowledged(writers, 3, tenant)
            await _dispatch(world, tenant, number, chance)
            await acknowledged(writers, 3, tenant)
        await _moved_once(world, tenant, all_attempts(writers))


async def _dispatch(world: World, tenant: UUID, number: int, chance: random.Random) -> None:
    job = {"tenant": tenant, "config": _CONFIG, "steps": ["move"]}
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(DriverProcess(world, f"round-{number}-{worker}", **job, **more))
            for worker, more in enumerate(({}, {}, {"seconds": chance.uniform(0.3, 1.0)}))
        ]
        await until(partial(_is_begun, world, tenant), "the first of them")
        for worker in workers[:2]:
            await asyncio.sleep(chance.uniform(0, LONGEST_MOVE / 2))
            if worker.is_running:
                worker.kill()
        await asyncio.to_thread(workers[2].wait, 60)


async def _is_begun(world: World, tenant: UUID) -> bool:
    return bool(await world.coordinator.get_migrations_by_tenant(tenant))


async def _moved_once(world: World, tenant: UUID, attempts: list[Attempt]) -> None:
    [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
    assert migration.state is MigrationState.MIGRATED
    (await world.check(migration, attempts)).assert_clean()
