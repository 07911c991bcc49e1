"""The queue of the fleet: what is put into it comes out, and what it loses comes again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from eventsource.fleet import Outcome, WaveState, queue
from eventsource.fleet.queue import SCHEMA, Queue, Worker
from tests.support.application import SOURCE, TARGET
from tests.support.fleet import carrier_of, items_of, running_wave, seeded, waves_in
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

GROUPS = {SOURCE: SOURCE, TARGET: "db1"}


@pytest.fixture
async def pool(world: World) -> AsyncIterator[asyncpg.Pool]:
    await world.control.execute(f"drop schema if exists {SCHEMA} cascade")
    async with asyncpg.create_pool(world.dsns["control"], min_size=0, max_size=8) as made:
        yield made
    await world.control.execute(f"drop schema if exists {SCHEMA} cascade")


@contextlib.asynccontextmanager
async def working(
    world: World, pool: asyncpg.Pool, *, limit: int = 3, at_once: int = 3
) -> AsyncIterator[Worker]:
    process = await world.process(lease_seconds=1.0)
    worker = Worker(
        carrier_of(world, process), waves_in(world), Queue(pool, GROUPS), {"db1": limit}, at_once
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker
        assert not running.done(), running
    finally:
        worker.stopping.set()
        await asyncio.wait_for(running, 30)


async def is_done(world: World) -> bool:
    return (await waves_in(world).get("night")).state is WaveState.DONE


async def jobs(world: World) -> list[str]:
    rows = await world.control.fetch(f"select dedupe_key from {SCHEMA}.pgqueuer")
    return [row[0] for row in rows]


async def test_two_workers_move_a_wave(world: World, pool: asyncpg.Pool) -> None:
    tenants = await seeded(world, 8)
    wave = await running_wave(world, tenants)
    async with working(world, pool), working(world, pool):
        await until(lambda: is_done(world), "the wave", 60)
    assert {each.outcome for each in (await items_of(world, wave)).values()} == {Outcome.MOVED}
    rows = await world.control.fetch("select state, count(*) from tenant_migrations group by 1")
    assert [tuple(row) for row in rows] == [("migrated", 8)]


async def test_a_tenant_is_in_the_queue_once_however_often_it_is_put(
    world: World, pool: asyncpg.Pool
) -> None:
    tenants = await seeded(world, 3)
    wave = await running_wave(world, tenants)
    made = Queue(pool, GROUPS)
    await made.make()
    await made.make()
    assert await made.refill(waves_in(world)) == 3
    assert await made.refill(waves_in(world)) == 0
    assert await made.put(await waves_in(world).items(wave)) == 0
    assert sorted(await jobs(world)) == sorted(f"{wave.id}/{tenant}" for tenant in tenants)
    ordinals = await world.control.fetch(
        f"select dedupe_key from {SCHEMA}.pgqueuer order by priority desc"
    )
    assert [UUID(row[0].split("/")[1]) for row in ordinals] == tenants


async def test_tenants_of_stores_that_this_machine_does_not_know_are_left_to_others(
    world: World, pool: asyncpg.Pool
) -> None:
    await running_wave(world, await seeded(world, 1))
    made = Queue(pool, {SOURCE: SOURCE})
    await made.make()
    assert await made.refill(waves_in(world)) == 0


async def test_no_more_move_at_once_than_the_limit_of_their_group(
    world: World, pool: asyncpg.Pool
) -> None:
    tenants = await seeded(world, 6)
    await running_wave(world, tenants)
    await Queue(pool, GROUPS).make()
    most = 0
    async with working(world, pool, limit=2), working(world, pool, limit=2):
        while not await is_done(world):
            picked = await world.control.fetchval(
                f"select count(*) from {SCHEMA}.pgqueuer where status = 'picked'"
            )
            most = max(most, picked)
            await asyncio.sleep(0.02)
    assert most == 2


async def test_the_queue_is_dropped_while_it_works(world: World, pool: asyncpg.Pool) -> None:
    tenants = await seeded(world, 10)
    wave = await running_wave(world, tenants)
    async with working(world, pool, limit=1):
        await until(lambda: _moved(world, 2), "the first tenants", 60)
        await world.control.execute(f"drop schema {SCHEMA} cascade")
        await until(lambda: is_done(world), "the rest", 120)
    assert {each.outcome for each in (await items_of(world, wave)).values()} == {Outcome.MOVED}
    rows = await world.control.fetch("select state, count(*) from tenant_migrations group by 1")
    assert [tuple(row) for row in rows] == [("migrated", 10)]


async def _moved(world: World, count: int) -> bool:
    found: int = await world.control.fetchval(
        "select count(*) from migration_wave_items where outcome = 'moved'"
    )
    return found >= count


async def test_a_worker_that_is_stopped_gives_its_tenants_to_another_one_at_once(
    world: World, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose tenant waits for a writer that holds its fence."""
    [tenant] = await seeded(world, 1)
    await running_wave(world, [tenant])
    async with world.open_transaction(world.other):
        async with working(world, pool):
            await until(lambda: _begun(world), "its begin")
        [row] = await world.control.fetch(f"select status, attempts from {SCHEMA}.pgqueuer")
        assert row["status"] == "queued"
        for process in world.processes[1:]:
            await process.coordinator.close()
    async with working(world, pool):
        await until(lambda: is_done(world), "the wave", 60)


async def _begun(world: World) -> bool:
    return bool(await world.control.fetchval("select count(*) from tenant_migrations"))


async def test_what_passes_is_tried_again_after_a_while(
    world: World, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "FIRST_RETRY_SECONDS", 0.2)
    [tenant] = await seeded(world, 1)
    wave = await running_wave(world, [tenant], attempts=50)
    process = await world.process(cutover_timeout_seconds=0.2)
    await world.dual_write(tenant, process)
    worker = Worker(carrier_of(world, process), waves_in(world), Queue(pool, GROUPS), {"db1": 2}, 2)
    running = asyncio.create_task(worker.run())
    async with world.open_transaction(tenant):
        await until(lambda: _tried(world, 2), "two attempts", 60)
    await until(lambda: is_done(world), "the wave", 60)
    worker.stopping.set()
    await asyncio.wait_for(running, 30)
    assert (await items_of(world, wave))[tenant].outcome is Outcome.MOVED


async def _tried(world: World, times: int) -> bool:
    found: int = await world.control.fetchval("select max(attempts) from migration_wave_items")
    return found >= times


async def test_a_stopped_wave_leaves_the_queue_and_comes_back_when_it_is_resumed(
    world: World, pool: asyncpg.Pool
) -> None:
    tenants = await seeded(world, 3)
    wave = await running_wave(world, tenants)
    await waves_in(world).stop(wave, "ann", "enough")
    made = Queue(pool, GROUPS)
    await made.make()
    assert await made.put(await waves_in(world).items(wave)) == 3
    async with working(world, pool):
        await until(lambda: _is_empty(world), "an empty queue", 30)
        assert await world.control.fetchval("select count(*) from tenant_migrations") == 0
        await waves_in(world).resume(wave, "ann")
        await made.refill(waves_in(world))
        await until(lambda: is_done(world), "the wave", 60)


async def _is_empty(world: World) -> bool:
    return not await jobs(world)
