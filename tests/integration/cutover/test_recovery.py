"""A driver that is lost or frozen at the cutover, and whoever takes it up."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import CutoverTimeoutError, Migration, MigrationError, MigrationState
from eventsource.migration.driver.heartbeat import Heartbeat
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.migration.steps import decision
from eventsource.migration.steps.cutover import OPENING_MS, Cutover
from eventsource.migration.steps.passes import Passes
from eventsource.migration.tables import fences
from eventsource.testing import Cluster
from tests.support.at_the_cutover import (
    MARGIN,
    Stop,
    assert_at_the_target,
    assert_still_at_the_source,
    stands_in,
    waits_for_the_lock,
)
from tests.support.held_migration import audit
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, table


async def test_nothing_decided_is_recovered_to_dual_write_and_the_request_is_carried_out(
    world: World,
) -> None:
    driver = await world.process(cutover_timeout_seconds=20)
    await world.seed(10)
    migration = await world.dual_write(process=driver)
    async with world.open_transaction(world.tenant):
        asked = asyncio.create_task(
            world.coordinator.initiate_cutover(migration.id, operator="dan")
        )
        await world.reach(migration, "cutover_paused")
        await driver.stop()
        await until(lambda: waits_for_the_lock(world), "recovery at the lock")
        assert await stands_in(world, migration, "cutover_paused")
    done = await asked
    await assert_at_the_target(world, done)
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    told = [e.details for e in await log.get_by_migration(migration.id)]
    assert {"recovered": "nothing was decided"} in told


async def test_a_pause_that_nobody_asked_for_any_more_ends_in_dual_write(world: World) -> None:
    migration = await world.dual_write()
    await world.coordinator.close()
    await world.control.execute("update tenant_migrations set state = 'cutover_paused'")
    elsewhere = await world.process()
    await elsewhere.coordinator.resume_migration(migration.id)
    await world.reach(migration, "dual_write")
    await assert_still_at_the_source(world)


async def lost_driver(
    world: World, monkeypatch: pytest.MonkeyPatch, function: str, **settings: Any
) -> Migration:
    """A cutover that was decided and whose driver is gone before ``function`` of flip."""
    await world.seed(10)
    driver = await world.process(**settings)
    migration = await world.dual_write(process=driver)
    stop = Stop(monkeypatch, decision, function)
    asked = asyncio.create_task(driver.coordinator.initiate_cutover(migration.id, force=True))
    await stop.kill(driver)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    left = await world.here.migrations.get(migration.id)
    assert left.state is MigrationState.CUTOVER_PAUSED
    assert await world.source.fetchval("select state from eventsource_fences") == "moved"
    return left


@pytest.mark.parametrize("function", ["open_target", "finish"])
async def test_any_process_finishes_what_was_decided(
    world: World, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    migration = await lost_driver(world, monkeypatch, function)
    done = await world.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    await assert_at_the_target(world, done)


async def test_what_is_carried_again_while_writers_wait_is_not_throttled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk is a quarter of a second's worth of the limit, and without one all rows are one."""
    migration = await lost_driver(
        world, monkeypatch, "open_target", max_events_per_second=8.0, mirror_writes=False
    )
    at_target = await world.connect("target")
    await at_target.execute(
        f"set eventsource.migration = '{migration.id}'; delete from {table('target')}"
    )
    for name in ("eventsource_copy_progress", "eventsource_copied_ranges"):
        await at_target.execute(f"delete from {name}")
    done = await world.coordinator.initiate_cutover(migration.id)
    assert done.config.max_events_per_second == 8.0
    chunks = await world.target.fetchval(
        f"select count(distinct transaction_id) from {table('target')}"
    )
    assert chunks == 1
    await assert_at_the_target(world, done)


@pytest.mark.parametrize("function", ["open_target", "finish"])
async def test_an_abort_of_what_was_decided_finishes_it(
    world: World, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    migration = await lost_driver(world, monkeypatch, function)
    with pytest.raises(MigrationError, match="migrated"):
        await world.coordinator.abort_migration(migration.id)
    await assert_at_the_target(world, migration)


@pytest.mark.parametrize("request_", ["resume", "abort"])
async def test_a_journal_that_lost_the_decision_rolls_forward_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    migration = await lost_driver(world, monkeypatch, "open_target")
    await world.control.execute(
        "update tenant_migrations set state = 'dual_write', cutover_request = null;"
        " update tenant_routing set migration_state = 'dual_write'"
    )
    if request_ == "abort":
        with pytest.raises(MigrationError):
            await world.coordinator.abort_migration(migration.id)
    else:
        await world.coordinator.resume_migration(migration.id)
    await assert_at_the_target(world, migration)


@pytest.mark.parametrize("knows_the_route", [False, True])
@pytest.mark.parametrize("function", ["open_target", "finish"])
async def test_a_router_alone_finishes_what_was_decided(
    world: World, monkeypatch: pytest.MonkeyPatch, function: str, knows_the_route: bool
) -> None:
    writer = await world.process(route_ttl_seconds=60)
    stream = uuid4()
    if knows_the_route:
        await writer.append(world.tenant, stream)
    migration = await lost_driver(world, monkeypatch, function)
    version = 1 if knows_the_route else 0
    results = await asyncio.gather(
        writer.append(world.tenant, stream, version),
        *(writer.append(world.tenant) for _ in range(5)),
    )
    assert results[0].new_version == version + 1
    if function == "finish":
        # The target is open: nobody has to finish anything to write there.
        assert await stands_in(world, migration, "cutover_paused")
        await world.coordinator.resume_migration(migration.id)
    await assert_at_the_target(world, migration)


async def test_a_decision_whose_commit_was_not_answered_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    commit = Cutover._commit

    async def unanswered(self: Cutover) -> None:
        await commit(self)
        self.connections.fence.connection.terminate()
        raise ConnectionResetError("the reply was lost")

    monkeypatch.setattr(Cutover, "_commit", unanswered)
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    await assert_at_the_target(world, done)


async def test_a_decision_that_was_not_sent_is_taken_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    commit, tries = Cutover._commit, []

    async def unsent(self: Cutover) -> None:
        tries.append(1)
        if len(tries) == 1:
            self.connections.fence.connection.terminate()
            raise ConnectionResetError("the connection was lost")
        await commit(self)

    monkeypatch.setattr(Cutover, "_commit", unsent)
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert len(tries) == 2
    await assert_at_the_target(world, done)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_a_commit_that_is_still_under_way_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    """Under a frozen snapshot, which may be the role's default, what is read behind the lock would
    be as old as the wait for it.
    """
    await world.seed(10)
    name = await world.source.fetchval("select current_database()")
    await world.source.execute(
        f"alter database \"{name}\" set default_transaction_isolation = '{isolation}'"
    )
    driver = await world.process(cutover_timeout_seconds=10)
    migration = await world.dual_write(process=driver)
    deciding = asyncio.Event()
    held: list[asyncpg.Connection] = []

    async def slow(self: Cutover) -> None:
        # The server has the COMMIT and its driver is gone: the session lives on for a while.
        held.append(self.connections.fence.connection)
        deciding.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Cutover, "_commit", slow)
    monkeypatch.setattr("eventsource.migration.steps.cutover.Cutover._fenced", _left_open)
    asked = asyncio.create_task(driver.coordinator.initiate_cutover(migration.id, force=True))
    await asyncio.wait_for(deciding.wait(), 20)
    monkeypatch.setattr(
        "eventsource.migration.driver.driver.DriverConnections.close", _keep_the_fence
    )
    await driver.stop()
    asked.cancel()
    monkeypatch.undo()
    # Nobody asks any more: what is found is all that can finish it.
    await world.control.execute("update tenant_migrations set cutover_request = null")
    recovering = asyncio.create_task(world.coordinator.resume_migration(migration.id))
    await until(lambda: waits_for_the_lock(world), "recovery at the lock")
    assert await stands_in(world, migration, "cutover_paused")
    await held[0].execute("commit")
    held[0].terminate()
    await recovering
    await assert_at_the_target(world, migration)
    told = [entry.details for entry in await audit(world, migration)]
    assert {"recovered": "nothing was decided"} not in told


@contextlib.asynccontextmanager
async def _left_open(self: Cutover, wait: float, budget: float) -> AsyncIterator[bool]:
    await self.connections.fence.connection.execute("begin")
    await fences.lock_exclusively(self.connections.fence.connection, self.fence)
    yield True


async def _keep_the_fence(self: Any, *, keep: bool = False) -> None:
    for connection in (
        self.source.connection,
        self.target.connection,
        self.control,
        self.heartbeat,
    ):
        connection.terminate()


@pytest.mark.parametrize("frozen_at", ["run", "_fenced"])
async def test_a_driver_that_was_frozen_before_the_lock_decides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, frozen_at: str
) -> None:
    await world.seed(10)
    driver = await world.process()
    migration = await world.dual_write(process=driver)
    frozen, thawed, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
    run, fenced, asked_first = Cutover.run, Cutover._fenced, decision.find

    async def freeze_and_run(self: Cutover) -> Any:
        try:
            if frozen_at == "run":
                frozen.set()
                await thawed.wait()
            return await run(self)
        finally:
            gone.set()

    @asynccontextmanager
    async def freeze_and_fence(self: Cutover, wait: float, budget: float) -> AsyncIterator[bool]:
        if frozen_at == "_fenced":
            frozen.set()
            await thawed.wait()
        async with fenced(self, wait, budget) as held:
            yield held

    async def sleep_on(self: Heartbeat) -> None:
        await asyncio.Event().wait()

    async def thaw_after(*arguments: Any) -> Any:
        # The worst moment: the new driver has just read that nothing was decided.
        found = await asked_first(*arguments)
        thawed.set()
        await asyncio.wait_for(gone.wait(), 20)
        return found

    monkeypatch.setattr(Cutover, "run", freeze_and_run)
    monkeypatch.setattr(Cutover, "_fenced", freeze_and_fence)
    monkeypatch.setattr(Heartbeat, "run", sleep_on)
    await driver.coordinator.close()
    await driver.coordinator.resume_migration(migration.id)
    asked = asyncio.create_task(driver.coordinator.initiate_cutover(migration.id, force=True))
    await asyncio.wait_for(frozen.wait(), 20)
    monkeypatch.undo()
    monkeypatch.setattr(decision, "find", thaw_after)
    await world.control.execute("update tenant_migrations set driver_expires_at = now()")
    await world.coordinator.resume_migration(migration.id)
    await asyncio.wait_for(gone.wait(), 20)
    assert await world.source.fetchval("select state from eventsource_fences") == "open"
    monkeypatch.undo()
    done = await asked
    await assert_at_the_target(world, done)


@pytest.mark.alone
async def test_a_frozen_driver_does_not_hold_writers_longer_than_its_budget(
    world: World, monkeypatch: pytest.MonkeyPatch, source_cluster: Cluster
) -> None:
    await world.seed(10)
    driver = await world.process(cutover_timeout_seconds=0.5)
    migration = await world.dual_write(process=driver)
    under_the_fence = Passes.under_the_fence
    waits: list[Any] = []

    async def freeze(self: Passes) -> Any:
        if not waits:
            waits.append(_frozen_for(1.2, source_cluster, world, answer=0))
        return await under_the_fence(self)

    monkeypatch.setattr(Passes, "under_the_fence", freeze)
    with pytest.raises(CutoverTimeoutError):
        await driver.coordinator.initiate_cutover(migration.id, force=True)
    # The guard's own patience is two seconds longer than the budget: the server freed the writer.
    assert waits[0] is not None
    assert waits[0] < 0.5 + MARGIN
    done = await driver.coordinator.initiate_cutover(migration.id, force=True)
    await assert_at_the_target(world, done)
    assert len(await world.ids("source")) == 11


@pytest.mark.alone
async def test_a_driver_frozen_behind_the_decision_lets_writers_go(
    world: World, monkeypatch: pytest.MonkeyPatch, source_cluster: Cluster
) -> None:
    await world.seed(10)
    driver = await world.process(cutover_timeout_seconds=5)
    migration = await world.dual_write(process=driver)
    open_target, waits = decision.open_target, []

    async def freeze(*arguments: Any) -> None:
        # It is refused then, since the tenant has moved.
        waits.append(_frozen_for(1.2, source_cluster, world, answer=1))
        await open_target(*arguments)

    monkeypatch.setattr(decision, "open_target", freeze)
    done = await driver.coordinator.initiate_cutover(migration.id, force=True)
    assert waits[0] is not None
    assert OPENING_MS / 2000 < waits[0] < OPENING_MS / 1000 + MARGIN
    await assert_at_the_target(world, done)


def _frozen_for(seconds: float, cluster: Cluster, world: World, answer: int) -> float | None:
    """Block the whole process; how long a writer elsewhere waited, None when it still does."""
    began = time.monotonic()
    writer = subprocess.Popen(
        [
            str(cluster.program("psql")), "-qX", "-v", "ON_ERROR_STOP=1", world.dsns["source"],
            "-c",
            "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
            " version, timestamp, payload) values (gen_random_uuid(), gen_random_uuid(), 'Note',"
            f" 'world.noted', '{world.tenant}', 1, now(), '{{}}')",
        ]
    )  # fmt: skip
    waited = None
    while time.monotonic() - began < seconds:
        if waited is None and writer.poll() is not None:
            assert writer.returncode == answer
            waited = time.monotonic() - began
        time.sleep(0.01)
    return waited
