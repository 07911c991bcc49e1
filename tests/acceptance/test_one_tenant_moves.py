"""The main job: a tenant moves between two servers while three processes write to it.

Every test ends with the independent checker on both servers: invariants I1 to I7 for the tenants
that moved, I8 for those that did not.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.testing import Outcome
from eventsource.testing.records import Attempt, clock
from eventsource.testing.writers import STREAM_TYPE, Entry
from tests.support.waiting import until
from tests.support.worlds.two_servers import (
    FENCE_LOCK_CLASS,
    World,
    acknowledged,
    all_attempts,
    two_servers,
    writing,
)

PROCESSES = 3

#: How many move in a row; `make restarts` moves twenty.
IN_A_ROW = int(os.environ.get("IN_A_ROW", "3"))


async def test_tenants_move_in_a_row_and_nothing_is_lost(world: World) -> None:
    tenants = [uuid4() for _ in range(IN_A_ROW)]
    bystanders = [uuid4() for _ in range(3)]
    await world.seed([*tenants, *bystanders], events=1000)
    everybody = [*tenants, *bystanders]
    configs = [
        world.writer_config(
            f"writer-{number}", everybody, appends_per_second=6.0, slow_commits=0.03, seed=number
        )
        for number in range(PROCESSES)
    ]
    migrations = []
    with writing(configs) as writers:
        for tenant in tenants:
            writers[0].focus(tenant)
            await acknowledged(writers, 3, tenant)
            migrations.append(await world.move(tenant))
            await acknowledged(writers, 3, tenant)
    attempts = all_attempts(writers)
    for migration in migrations:
        report = await world.check(migration, attempts)
        report.assert_clean()
        assert report.written_at_target > 0
        assert report.carried > report.preloaded
    for bystander in bystanders:
        report = await world.check_bystander(bystander, attempts)
        report.assert_clean()
        assert set(report.failed_appends) <= {"OptimisticLockError"}


@pytest.mark.parametrize(
    "options",
    [
        {"isolation": "repeatable read"},
        {"isolation": "serializable"},
        {"replica_role": True},
    ],
    ids=["repeatable-read", "serializable", "replica-role"],
)
async def test_a_tenant_moves_whatever_sessions_its_writers_have(
    world: World, options: dict[str, Any]
) -> None:
    tenant, bystander = uuid4(), uuid4()
    await world.seed([tenant, bystander], events=3000)
    configs = [
        world.writer_config(
            f"writer-{number}", [tenant, bystander], slow_commits=0.05, seed=number, **options
        )
        for number in range(PROCESSES)
    ]
    with writing(configs) as writers:
        writers[0].focus(tenant)
        await acknowledged(writers, 10, tenant)
        migration = await world.move(tenant)
        await acknowledged(writers, 10, tenant)
    attempts = all_attempts(writers)
    (await world.check(migration, attempts)).assert_clean()
    (await world.check_bystander(bystander, attempts)).assert_clean()


async def test_a_process_that_never_heard_of_the_migration_is_refused_after_the_flip(
    world: World,
) -> None:
    tenant, bystander = uuid4(), uuid4()
    await world.seed([tenant, bystander], events=3000)
    everybody = [tenant, bystander]
    configs = [
        world.writer_config("writer-0", everybody, slow_commits=0.05),
        world.writer_config("writer-1", everybody),
        world.writer_config("frozen", everybody, frozen=True, control_dsn=None),
    ]
    with writing(configs) as writers:
        writers[0].focus(tenant)
        await acknowledged(writers, 10, tenant)
        migration = await world.move(tenant)
        flipped = clock()
        await acknowledged(writers[:2], 10, tenant)
        # It goes on as before with those who did not move.
        await acknowledged(writers[2:], 3, bystander)
    attempts = all_attempts(writers)
    report = await world.check(migration, attempts)
    report.assert_clean()
    assert any("EVF01" in error for error in report.failed_appends)
    late = [
        attempt
        for attempt in writers[2].attempts()
        if attempt.tenant_id == str(tenant) and attempt.invoked_at > flipped
    ]
    assert late
    assert {attempt.outcome for attempt in late} == {Outcome.REFUSED}
    (await world.check_bystander(bystander, attempts)).assert_clean()


class OpenAppend:
    """An append in a transaction that stays open until the test says so, recorded as writers do."""

    def __init__(self, world: World, tenant: UUID) -> None:
        self._world = world
        self._events = [
            Entry(
                aggregate_id=uuid4(),
                aggregate_type=STREAM_TYPE,
                tenant_id=tenant,
                number=0,
                text="in flight",
            )
        ]
        self._tenant = tenant
        self._invoked_at = 0.0
        self._answer: Any = None
        self.connection: asyncpg.Connection[Any]

    async def begin(self) -> None:
        """Open the transaction and give it a transaction id, older than any later snapshot."""
        self.connection = await asyncpg.connect(self._world.source.dsn)
        await self.connection.execute("begin")
        await self.connection.execute("select pg_current_xact_id()")

    async def append(self) -> None:
        self._invoked_at = clock()
        event = self._events[0]
        self._answer = await self._world.source_store.append_events(
            event.aggregate_id, STREAM_TYPE, self._events, 0, connection=self.connection
        )

    async def end(self, how: str) -> Attempt:
        """`commit` or `rollback`."""
        await self.connection.execute(how)
        await self.connection.close()
        committed = how == "commit"
        event = self._events[0]
        return Attempt(
            writer="test",
            task=0,
            tenant_id=str(self._tenant),
            aggregate_type=STREAM_TYPE,
            aggregate_id=str(event.aggregate_id),
            expected_version=0,
            event_ids=(str(event.event_id),),
            path="source",
            invoked_at=self._invoked_at,
            outcome=Outcome.OK if committed else Outcome.REFUSED,
            returned_at=clock(),
            new_version=self._answer.new_version if committed else None,
            global_position=self._answer.global_position if committed else None,
        )

    async def is_at_target(self) -> bool:
        return await self._world.target_store.event_exists(self._events[0].event_id)


async def test_transactions_in_flight_at_the_start_and_at_the_flip_are_carried(
    world: World,
) -> None:
    tenant = uuid4()
    await world.seed([tenant], events=3000)
    at_start, undone, at_flip = (OpenAppend(world, tenant) for _ in range(3))
    # Older than the first snapshot, they write behind the guard and end after the bulk copy.
    await at_start.begin()
    await undone.begin()
    with writing([world.writer_config("writer-0", [tenant], slow_commits=0.05)]) as writers:
        await acknowledged(writers, 10, tenant)
        migration = await world.start(tenant)
        await until(lambda: _has_guard(world), "the guard on the source")
        await at_start.append()
        await undone.append()
        await world.reach(migration.id, MigrationState.DUAL_WRITE)
        assert not await at_start.is_at_target()
        attempts = [await at_start.end("commit"), await undone.end("rollback")]

        await at_flip.begin()
        await at_flip.append()
        cutover = asyncio.create_task(world.coordinator.initiate_cutover(migration.id))
        await until(lambda: _fence_is_waited_for(world), "the fence to be asked for")
        assert not await at_flip.is_at_target()
        attempts.append(await at_flip.end("commit"))
        migration = await cutover
        await acknowledged(writers, 10, tenant)
    assert await at_start.is_at_target()
    assert await at_flip.is_at_target()
    (await world.check(migration, [*all_attempts(writers), *attempts])).assert_clean()


async def test_a_transaction_that_wrote_before_the_start_is_waited_for_and_carried(
    world: World,
) -> None:
    tenant, bystander = uuid4(), uuid4()
    await world.seed([tenant, bystander], events=3000)
    early = OpenAppend(world, tenant)
    await early.begin()
    await early.append()
    configs = [world.writer_config("writer-0", [tenant, bystander])]
    with writing(configs) as writers:
        migration = await world.start(tenant)
        # The guard cannot come while the table is locked by a writer; other writers go on.
        await acknowledged(writers, 10, tenant)
        await acknowledged(writers, 3, bystander)
        attempts = [await early.end("commit")]
        await world.reach(migration.id, MigrationState.DUAL_WRITE)
        migration = await world.coordinator.initiate_cutover(migration.id)
        await acknowledged(writers, 10, tenant)
    attempts += all_attempts(writers)
    (await world.check(migration, attempts)).assert_clean()
    (await world.check_bystander(bystander, attempts)).assert_clean()


@pytest.mark.alone
async def test_a_cutover_over_its_budget_rolls_back_and_no_writer_sees_an_error(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path
) -> None:
    from eventsource.migration import CutoverTimeoutError, MigrationConfig

    config = MigrationConfig(cutover_timeout_seconds=1.0, pass_interval_seconds=0.05)
    tenant = uuid4()
    async with two_servers(source_dsn, target_dsn, control_dsn, tmp_path, config) as world:
        await world.seed([tenant], events=2000)
        blocking = OpenAppend(world, tenant)
        with writing([world.writer_config("writer-0", [tenant])]) as writers:
            migration = await world.start(tenant)
            await world.reach(migration.id, MigrationState.DUAL_WRITE)
            await blocking.begin()
            await blocking.append()
            with pytest.raises(CutoverTimeoutError) as refused:
                await world.coordinator.initiate_cutover(migration.id)
            pid = blocking.connection.get_server_pid()
            assert pid in {blocker.pid for blocker in refused.value.blockers}
            await world.reach(migration.id, MigrationState.DUAL_WRITE)
            attempts = [await blocking.end("commit")]
            before = all_attempts(writers)
            migration = await world.coordinator.initiate_cutover(migration.id)
            await acknowledged(writers, 10, tenant)
        report = await world.check(migration, [*all_attempts(writers), *attempts])
        report.assert_clean()
        assert set(report.failed_appends) <= {"OptimisticLockError"}
        # Budget and a quarter of a second: the longest that a writer may have waited.
        assert max(attempt.latency or 0.0 for attempt in before) <= 1.25


async def _has_guard(world: World) -> bool:
    found = await world.source_store.pool.fetchval(
        """
        select count(*) from pg_trigger
        where tgrelid = 'events_shared'::regclass and tgenabled = 'A'
          and tgname = 'zzz_eventsource_guard_write'
        """
    )
    return bool(found)


async def _fence_is_waited_for(world: World) -> bool:
    return bool(
        await world.source_store.pool.fetchval(
            """
            select exists (
                select from pg_locks
                where locktype = 'advisory' and mode = 'ExclusiveLock' and not granted
                  and classid = $1::bigint::oid
                  and database = (select oid from pg_database where datname = current_database())
            )
            """,
            FENCE_LOCK_CLASS,
        )
    )
