"""What a cutover costs other tenants of the process, and writers above read committed."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import TenantStoreRouter
from eventsource.migration.routing import pauses
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import SOURCE, TARGET, writing
from tests.support.one_fence import guarded
from tests.support.waiting import until
from tests.support.worlds.three_databases import SOURCE_TABLE, World


async def longest_of_a_bystander(world: World, stop: asyncio.Event) -> float:
    longest = 0.0
    while not stop.is_set():
        began = time.monotonic()
        await world.here.append(world.other)
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.01)
    return longest


@pytest.mark.alone
@pytest.mark.parametrize("tenants", [1, 3])
async def test_other_tenants_of_the_process_hardly_wait_for_paused_ones(
    world: World, tenants: int
) -> None:
    """The pool has 16 connections; forty appends of each paused tenant would take them all."""
    fences = [await guarded(world, tenant=uuid4(), migration=uuid4()) for _ in range(tenants)]
    await world.control.executemany(
        "insert into tenant_routing (tenant_id, store_id, migration_state)"
        f" values ($1, '{SOURCE}', 'cutover_paused')",
        [(str(each.tenant),) for each in fences],
    )
    await world.here.source.warm_up(16)
    await world.here.append(world.other)
    async with asyncio.TaskGroup() as group:
        held = [each.closed_to_writers() for each in fences]
        for lock in held:
            await lock.__aenter__()
        waiting = [
            group.create_task(world.here.append(each.tenant)) for each in fences for _ in range(40)
        ]
        stop = asyncio.Event()
        bystander = group.create_task(longest_of_a_bystander(world, stop))
        await asyncio.sleep(1.0)
        assert not any(task.done() for task in waiting)
        stop.set()
        longest = await bystander
        for lock in held:
            await lock.__aexit__(None, None, None)
    assert longest < 0.25
    for each in fences:
        assert len(await world.ids("source", each.tenant)) == 40
    assert world.router._paused._tenants == {}


async def test_who_waited_for_a_turn_follows_the_tenant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "SHARE", 0.0)
    migration = await world.dual_write()
    async with writing(world.here, world.tenant, 12):
        done = await world.coordinator.initiate_cutover(migration.id)
        await asyncio.sleep(0.2)
    await world.assert_moved(done)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_no_writer_sees_an_error_whatever_the_default_isolation_is(
    world: World, level: str
) -> None:
    """And nobody else does: coordinator, preflight and driver."""
    for side in ("source", "target", "control"):
        name = await getattr(world, side).fetchval("select current_database()")
        await getattr(world, side).execute(
            f"alter database \"{name}\" set default_transaction_isolation to '{level}'"
        )
    there = await world.process()
    await world.seed(50)
    migration = await world.dual_write(process=there)
    async with writing(there, world.tenant, 8) as writers:
        await until(lambda: _has_written(writers, 50), "appends")
        done = await there.coordinator.initiate_cutover(migration.id)
        before = writers.acknowledged
        await until(lambda: _has_written(writers, before + 50), "appends at the target")
    await world.assert_moved(done)
    assert len(await world.ids("target")) == 50 + writers.acknowledged


async def _has_written(writers: object, count: int) -> bool:
    return int(writers.acknowledged) >= count  # type: ignore[attr-defined]


async def test_what_others_break_stays_an_error(world: World) -> None:
    """Only a failure to serialize is tried again."""
    await world.source.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'not today' using errcode = '22023'; end $$;"
        f"create trigger refuse before insert on {SOURCE_TABLE} for each row"
        " execute function refuse()"
    )
    with pytest.raises(asyncpg.PostgresError, match="not today"):
        await world.here.append(world.tenant)


async def test_a_share_is_at_least_one(world: World) -> None:
    pool = await asyncpg.create_pool(world.dsns["source"], min_size=0, max_size=1)
    try:
        store = PostgreSQLEventStore(pool, SOURCE_TABLE)
        router = TenantStoreRouter(
            store, world.here.routes, {SOURCE: store, TARGET: world.here.target}
        )
        await world.control.execute(
            "insert into tenant_routing (tenant_id, store_id, migration_state)"
            f" values ('{world.tenant}', '{SOURCE}', 'cutover_paused')"
        )
        world.here.router, kept = router, world.here.router
        await asyncio.gather(*(world.here.append(world.tenant) for _ in range(3)))
        world.here.router = kept
        await router.close()
    finally:
        pool.terminate()
    assert len(await world.ids("source")) == 3
