"""A large tenant is loaded into an empty target without its indexes, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import (
    ConsistencyVerifier,
    InvalidStateTransitionError,
    MigrationState,
    VerificationLevel,
)
from eventsource.migration.tables.deferred_indexes import WORTH_IT
from tests.support.driver_process import DriverProcess
from tests.support.waiting import until
from tests.support.worlds.two_servers import World

EVENTS = WORTH_IT + 1_000
TABLE = '"events_dedicated-a"'
QUICK = {"lease_seconds": 1.0, "pass_interval_seconds": 0.05}


async def catalog(world: World) -> list[str]:
    """The target table's indexes, constraints and triggers."""
    rows = await world.target_store.pool.fetch(
        f"""
        select pg_get_indexdef(indexrelid) from pg_index where indrelid = '{TABLE}'::regclass
        union all select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
        where conrelid = '{TABLE}'::regclass and contype in ('u', 'p')
        union all select tgname from pg_trigger
        where tgrelid = '{TABLE}'::regclass and tgname like '%loading'
        order by 1
        """
    )
    return [row[0] for row in rows]


async def is_deferred(world: World) -> bool:
    return bool(
        await world.target_store.pool.fetchval(
            "select exists (select from eventsource_copy_progress"
            " where deferred_indexes is not null)"
        )
    )


@contextlib.asynccontextmanager
async def loaded_but_not_indexed(
    world: World, tenant: UUID
) -> AsyncIterator[tuple[DriverProcess, asyncpg.Connection]]:
    """A driver that has copied every row and waits to build the first index.

    COPY and a table lock in ROW EXCLUSIVE mode go together, CREATE INDEX waits for it. The session
    that holds the lock is the only one that can write meanwhile; its work is committed at the end.
    """
    slow = {**QUICK, "max_events_per_second": 25_000}
    holder = await asyncpg.connect(world.target.dsn)
    try:
        with DriverProcess(world, "loading", tenant=tenant, config=slow) as driver:
            await until(lambda: is_deferred(world), "the indexes to be dropped")
            await holder.execute(f"begin; lock table {TABLE} in row exclusive mode")

            async def building() -> bool:
                return bool(
                    await world.target_store.pool.fetchval(
                        "select exists (select from pg_stat_activity where query ilike"
                        " '%create %index%' and wait_event_type = 'Lock')"
                    )
                )

            await until(building, f"an index to be built; the driver said: {driver.output()}")
            yield driver, holder
            await holder.execute("commit")
            if driver.is_running:
                await until(lambda: _is_final(world, tenant), "the end of the load")
    finally:
        await holder.close()


async def _is_final(world: World, tenant: UUID) -> bool:
    [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
    return migration.state.is_final


async def migration_of(world: World, tenant: UUID) -> UUID:
    [migration] = await world.coordinator.get_migrations_by_tenant(tenant)
    return migration.id


async def append_elsewhere(world: World) -> None:
    """Another tenant's event, written to the target by SQL."""
    await world.target_store.pool.execute(
        f"insert into {TABLE} (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
        " version, timestamp, payload) values (gen_random_uuid(), gen_random_uuid(), 'A', 'A',"
        " gen_random_uuid(), 1, now(), '{}')"
    )


async def test_killed_between_the_drop_and_the_build(world: World) -> None:
    tenant = uuid4()
    await world.seed([tenant], EVENTS)
    before = await catalog(world)
    async with loaded_but_not_indexed(world, tenant) as (driver, _):
        driver.kill()
    assert len(await catalog(world)) < len(before)
    with pytest.raises(asyncpg.PostgresError, match="being loaded") as refused:
        await append_elsewhere(world)
    assert refused.value.sqlstate == "EVF03"
    # An application that starts meanwhile leaves the indexes to the migration.
    await world.target_store.create_schema()
    assert len(await catalog(world)) < len(before)
    migration_id = await migration_of(world, tenant)
    with DriverProcess(world, "second", migration=migration_id, config=QUICK, cutover=True) as last:
        last.wait(60)
    assert await catalog(world) == before
    assert not await is_deferred(world)
    migration = await world.coordinator.get_migration(migration_id)
    assert migration.state is MigrationState.MIGRATED
    report = await world.check(migration, [])
    report.assert_clean()
    assert report.carried == EVENTS
    await append_elsewhere(world)


async def test_an_abort_in_the_middle_of_the_load_restores_the_indexes(world: World) -> None:
    tenant = uuid4()
    await world.seed([tenant], EVENTS)
    before = await catalog(world)
    async with loaded_but_not_indexed(world, tenant) as (driver, _):
        driver.kill()
    migration = await world.coordinator.abort_migration(await migration_of(world, tenant))
    assert migration.state is MigrationState.ROLLED_BACK
    assert await catalog(world) == before
    assert await world.target_store.pool.fetchval(f"select count(*) from {TABLE}") == 0
    await append_elsewhere(world)


async def test_a_row_changed_on_its_way_fails_the_proof_and_is_named(world: World) -> None:
    tenant = uuid4()
    await world.seed([tenant], EVENTS)
    await world.target_store.pool.execute(
        "create function spoil() returns trigger language plpgsql as"
        " $$ begin new.payload := jsonb_set(new.payload, '{number}', '-1'); return new; end $$"
    )
    spoiled = await world.source_store.pool.fetchval(
        f"select event_id from {world.source_store.table} where tenant_id = $1"
        " order by global_position desc limit 1",
        tenant,
    )
    await world.target_store.pool.execute(
        f"create trigger spoil before insert on {TABLE} for each row"
        f" when (new.event_id = '{spoiled}') execute function spoil()"
    )
    world.coordinator._config = replace(world.coordinator._config, target_triggers="fire")
    migration = await world.start(tenant)
    await until(lambda: _is_final(world, tenant), "the end of the load")
    migration = await world.coordinator.get_migration(migration.id)
    assert migration.state is MigrationState.FAILED
    assert migration.error_code == "inconsistent"
    assert f"event {spoiled}, field payload" in (migration.error_message or "")
    report = await ConsistencyVerifier(
        world.source_store, world.target_store
    ).verify_tenant_consistency(tenant, VerificationLevel.HASH)
    [violation] = report.violations
    assert (violation.event_id, violation.field) == (spoiled, "payload")
    with pytest.raises(InvalidStateTransitionError):
        await world.coordinator.initiate_cutover(migration.id)


async def test_a_target_in_use_keeps_its_indexes(world: World) -> None:
    tenant = uuid4()
    await world.seed([tenant], EVENTS)
    await append_elsewhere(world)
    before = await catalog(world)
    migration = await world.start(tenant)
    await world.reach(migration.id, MigrationState.BULK_COPY)
    assert not await is_deferred(world)
    assert await catalog(world) == before
    await append_elsewhere(world)
    await world.reach(migration.id, MigrationState.DUAL_WRITE)
    migration = await world.coordinator.initiate_cutover(migration.id)
    assert migration.position_offset
    report = await world.check(migration, [])
    report.assert_clean()
