"""The process that drives a migration is killed with kill -9; another one finishes the move.

The moments are found by reading durable state and locks, never by waiting for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import Migration, MigrationState
from tests.support.driver_process import DriverProcess
from tests.support.waiting import until
from tests.support.worlds.two_servers import (
    FENCE_LOCK_CLASS,
    World,
    acknowledged,
    all_attempts,
    writing,
)

# A second is the shortest lease: another process may take over that long after the kill.
QUICK = {"lease_seconds": 1.0, "pass_interval_seconds": 0.05}
# I11: with all databases up, a resumed migration has half a minute to end on one side.
RESUMED_WITHIN = 30.0


MAPPING = pytest.mark.parametrize("mapping", ["rows", "offset"])


@MAPPING
async def test_killed_in_the_bulk_copy(world: World, mapping: str) -> None:
    # Small chunks at a throttled rate keep the copy busy for seconds; each chunk is committed.
    slow = {**QUICK, "batch_size": 5, "max_events_per_second": 2000, "position_mapping": mapping}

    async def in_the_middle() -> bool:
        row = await _progress(world)
        return row is not None and row["pass_number"] == 1 and 0 < row["rows_copied"] < 3000

    await _kill_and_resume(world, in_the_middle, MigrationState.BULK_COPY, config=slow)


@MAPPING
async def test_killed_in_dual_write(world: World, mapping: str) -> None:
    async def catching_up() -> bool:
        row = await _progress(world)
        return row is not None and row["pass_number"] > 3 and row["rows_copied"] > 4000

    config = {**QUICK, "position_mapping": mapping}
    await _kill_and_resume(world, catching_up, MigrationState.DUAL_WRITE, config=config)


async def test_killed_with_the_fence_held(world: World) -> None:
    async def held() -> bool:
        return await _fence_lock(world, granted=True)

    async with Standstill(world, world.target.dsn, _PROGRESS_ROW, held) as standstill:
        await _kill_and_resume(
            world, standstill.reached, MigrationState.CUTOVER_PAUSED, standstill.end, cutover=True
        )


async def test_killed_between_the_decision_and_the_flip(world: World) -> None:
    async def decided() -> bool:
        state = await world.source_store.pool.fetchval(
            "select state from eventsource_fences where role = 'source'"
        )
        return bool(state == "moved")

    async with Standstill(world, world.control_dsn, _ROUTE_ROW, decided) as standstill:
        await _kill_and_resume(
            world, standstill.reached, MigrationState.CUTOVER_PAUSED, standstill.end, cutover=True
        )


async def test_an_abort_goes_through_beside_a_driver_frozen_while_it_reads(world: World) -> None:
    tenant = await _wide_tenant(world)
    job = {"tenant": tenant, "config": {**QUICK, "batch_size": 50_000}}
    holder = await asyncpg.connect(world.target.dsn)

    async def begun() -> bool:
        row = await _progress(world)
        return row is not None and row["pass_number"] == 1

    with DriverProcess(world, "frozen", **job) as driver:
        await until(begun, f"the copy; the driver said: {driver.output()}")
        await holder.execute(f"begin; {_PROGRESS_ROW}")
        await until(lambda: _stands_still(world), f"a copy that stands still: {driver.output()}")
        driver.freeze()
        await holder.execute("rollback")
        await _abort_beside(world, driver, tenant)


async def test_an_abort_goes_through_beside_a_driver_frozen_while_it_compares(
    world: World,
) -> None:
    tenant = await _wide_tenant(world)
    job = {"tenant": tenant, "config": {**QUICK, "verification_level": "full"}}

    async def comparing() -> bool:
        return bool(await world.source_store.pool.fetchval(_COMPARISON))

    with DriverProcess(world, "frozen", cutover=True, **job) as driver:
        await until(comparing, f"the comparison; the driver said: {driver.output()}")
        driver.freeze()
        await until(lambda: _stands_still(world), f"a copy that stands still: {driver.output()}")
        await _abort_beside(world, driver, tenant)


async def _wide_tenant(world: World) -> UUID:
    """More than fits between the servers, in one statement: it stays open while nobody reads on."""
    tenant = uuid4()
    await world.seed([tenant], events=10)
    await world.source_store.pool.execute(
        _WIDE_EVENTS.format(table=world.source.table), tenant, 30_000
    )
    return tenant


async def _stands_still(world: World) -> bool:
    return bool(await world.source_store.pool.fetchval(_COPY_STANDS_STILL))


async def _abort_beside(world: World, driver: DriverProcess, tenant: UUID) -> None:
    migration = await _migration_of(world, tenant)
    async with asyncio.timeout(RESUMED_WITHIN):
        aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    assert driver.is_running
    assert await world.source_store.pool.fetchval("select count(*) from eventsource_fences") == 0
    # Its copy has kept the table locked against who drops a trigger, and a snapshot that no VACUUM
    # may pass. Both would stay for as long as the process is frozen.
    assert not await world.source_store.pool.fetchval(_ANY_COPY)


_WIDE_EVENTS = """
insert into {table} (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", payload)
select gen_random_uuid(), gen_random_uuid(), 'Order', 'OrderPlaced', $1, 1, now(),
       jsonb_build_object('note', repeat(md5(n::text), 60)) from generate_series(1, $2) n
"""
# Its statements alone ask whether a row is due, beside the columns.
_COMPARISON = r"""
select exists (select from pg_stat_activity where datname = current_database()
               and state = 'active' and query ~ '^copy \(select.*pg_visible_in_snapshot.* from ')
"""
_ANY_COPY = """
select exists (select from pg_stat_activity where datname = current_database()
               and state = 'active' and query like 'copy (select%')
"""
_COPY_STANDS_STILL = """
select exists (select from pg_stat_activity where datname = current_database()
               and query like 'copy (select%' and wait_event = 'ClientWrite'
               and query_start < clock_timestamp() - interval '0.3 s')
"""


async def _kill_and_resume(
    world: World,
    moment: Callable[[], Awaitable[bool]],
    expected: MigrationState,
    after_the_kill: Callable[[], Awaitable[None]] | None = None,
    *,
    cutover: bool = False,
    config: dict[str, Any] = QUICK,
) -> None:
    """Kill the driver at the moment; a second process carries on; I1 to I7 hold."""
    tenant, bystander = uuid4(), uuid4()
    await world.seed([tenant, bystander], events=4000)
    configs = [
        world.writer_config(f"writer-{number}", [tenant, bystander], slow_commits=0.05)
        for number in range(2)
    ]
    with writing(configs) as writers:
        writers[0].focus(tenant)
        await acknowledged(writers, 5, tenant)
        job = {"tenant": tenant, "config": config, "cutover": cutover}
        with DriverProcess(world, "killed", **job) as driver:
            await until(moment, f"the moment to kill; the driver said: {driver.output()}")
            driver.kill()
        killed_at = time.monotonic()
        migration = await _migration_of(world, tenant)
        assert migration.state is expected
        if after_the_kill is not None:
            await after_the_kill()
        job = {"migration": migration.id, "config": config, "cutover": True}
        with DriverProcess(world, "second", **job) as driver:
            await until(lambda: _is_over(world, migration.id), "the end", RESUMED_WITHIN + 10)
            driver.wait(RESUMED_WITHIN)
        assert time.monotonic() - killed_at < RESUMED_WITHIN
        await acknowledged(writers, 5, tenant)
    attempts = all_attempts(writers)
    report = await world.check(migration, attempts)
    report.assert_clean()
    assert report.written_at_target > 0
    # I10: what was copied again after the kill was not written again.
    written = await world.target_store.pool.fetchval(
        "select rows_copied from eventsource_copy_progress where migration_id = $1", migration.id
    )
    assert written is None or written <= report.carried
    (await world.check_bystander(bystander, attempts)).assert_clean()


_PROGRESS_ROW = "select from eventsource_copy_progress for update"
_ROUTE_ROW = "select from tenant_routing where migration_state <> 'normal' for update"


class Standstill:
    """Makes a running cutover stand still on a row that the test holds, behind the fence.

    An append of the test holds the fence open until the driver waits for it; then the row is
    locked and the append ends, so that the driver gets the fence and next meets the locked row.
    The driver asks in short attempts: when it gave one up meanwhile, the next call begins anew.
    """

    def __init__(
        self, world: World, dsn: str, lock_rows: str, moment: Callable[[], Awaitable[bool]]
    ) -> None:
        self._world = world
        self._dsn = dsn
        self._lock_rows = lock_rows
        self._moment = moment
        self._appender: asyncpg.Connection[Any]
        self._holder: asyncpg.Connection[Any]

    async def __aenter__(self) -> Standstill:
        self._appender = await asyncpg.connect(self._world.source.dsn)
        self._holder = await asyncpg.connect(self._dsn)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._appender.close()
        await self._holder.close()

    async def reached(self) -> bool:
        """Whether the cutover stands still at the moment; the row stays locked then."""
        fence = await self._appender.fetchval(
            "select fence_id from eventsource_fences where role = 'source'"
        )
        if fence is None:
            return False
        async with self._appender.transaction():
            # What an append of the tenant does first.
            await self._appender.execute(
                f"select pg_advisory_xact_lock_shared({FENCE_LOCK_CLASS}, {fence})"
            )
            await until(self._is_asked_for, "the fence to be asked for")
            await self._holder.execute("begin")
            await self._holder.execute(self._lock_rows)
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            if await self._moment():
                return True
        await self.end()
        return False

    async def end(self) -> None:
        """Let go of the row."""
        await self._holder.execute("rollback")

    async def _is_asked_for(self) -> bool:
        return await _fence_lock(self._world, granted=False)


async def _fence_lock(world: World, *, granted: bool) -> bool:
    return bool(
        await world.source_store.pool.fetchval(
            """
            select exists (
                select from pg_locks
                where locktype = 'advisory' and mode = 'ExclusiveLock' and granted = $2
                  and classid = $1::bigint::oid
                  and database = (select oid from pg_database where datname = current_database())
            )
            """,
            FENCE_LOCK_CLASS,
            granted,
        )
    )


async def _progress(world: World) -> asyncpg.Record | None:
    return await world.target_store.pool.fetchrow("select * from eventsource_copy_progress")


async def _migration_of(world: World, tenant: UUID) -> Migration:
    migrations = await world.coordinator.get_migrations_by_tenant(tenant)
    assert len(migrations) == 1
    return migrations[0]


async def _is_over(world: World, migration_id: UUID) -> bool:
    return (await world.coordinator.get_migration(migration_id)).state is MigrationState.MIGRATED
