"""The cutover: its budget, its proof, and every place where its driver can be lost."""

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
from world import SOURCE, TARGET, Process, World, Writers, insert, table, until, writing

from eventsource.migration import (
    ConsistencyError,
    CutoverTimeoutError,
    Migration,
    MigrationError,
    MigrationState,
    flip,
    guard,
)
from eventsource.migration.cutover import OPENING_MS, Cutover
from eventsource.migration.passes import Passes
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.migration.watch import Watch
from eventsource.testing import Cluster

BUDGET = 1.0
MARGIN = 0.25


async def spent_paused(world: World, migration: Migration) -> float:
    """How long the journal says that the last attempt took, in seconds."""
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    at = {e.event_type: e.created_at for e in await log.get_by_migration(migration.id)}
    return (at["state:dual_write"] - at["state:cutover_paused"]).total_seconds()


async def assert_still_at_the_source(world: World) -> None:
    """Nothing was flipped and the tenant's writers are not held up."""
    fence = await world.source.fetchrow("select state, generation from eventsource_fences")
    assert tuple(fence) == ("open", 0)
    assert await world.target.fetchval("select state from eventsource_fences") == "closed"
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.generation) == (SOURCE, 0)
    await insert(await world.connect(lock_timeout="500ms"), world.tenant)


async def assert_at_the_target(world: World, migration: Migration) -> None:
    """State, route and both fences agree, and a new event goes there."""
    done = await world.reach(migration, "migrated")
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.migration_state, route.generation) == (TARGET, "normal", 1)
    assert await world.source.fetchval("select state from eventsource_fences") == "moved"
    assert await world.target.fetchval("select state from eventsource_fences") == "open"
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(world.source, world.tenant)
    assert refused.value.sqlstate == "EVF01"
    await insert(await world.connect("target"), world.tenant, side="target")
    await world.assert_moved(done)


async def asked_while_held(
    world: World, process: Process, migration: Migration
) -> asyncio.Task[Migration]:
    """Ask for the cutover and wait until it waits for a transaction that the test holds."""
    asked = asyncio.create_task(process.coordinator.initiate_cutover(migration.id, force=True))
    await until(lambda: _waits_for_the_lock(world), "the cutover at the lock")
    return asked


@pytest.mark.parametrize("prepared", [False, True], ids=["open", "prepared"])
async def test_a_transaction_that_stays_open_makes_the_cutover_give_up(
    world: World, prepared: bool
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    elsewhere = await world.process()
    async with writing(elsewhere, world.tenant) as writers:
        async with world.open_transaction(world.tenant) as blocker:
            if prepared:
                await blocker.execute("prepare transaction 'orders-17'")
            with pytest.raises(CutoverTimeoutError) as caught:
                await elsewhere.coordinator.initiate_cutover(migration.id)
            assert await spent_paused(world, migration) < BUDGET + MARGIN
            found = caught.value
            assert found.timeout_seconds == BUDGET
            [one] = [b for b in found.blockers if b.age_seconds > 0.5]
            if prepared:
                assert (one.pid, one.state) == (0, "prepared")
                assert "orders-17" in one.query
            else:
                assert (one.pid, one.state) == (blocker.get_server_pid(), "idle in transaction")
                assert "insert into" in one.query
            assert one.query in str(found)
            assert (await world.coordinator.get_migration(migration.id)).state == "dual_write"
            await assert_still_at_the_source(world)
            if prepared:
                await blocker.execute("commit prepared 'orders-17'")
        assert writers.longest < BUDGET + MARGIN
        done = await elsewhere.coordinator.initiate_cutover(migration.id)
    await assert_at_the_target(world, done)
    found_there = len(await world.ids("target"))
    assert found_there == 10 + writers.acknowledged + 1 + prepared + 1


async def test_writers_run_between_two_attempts_for_the_lock(world: World) -> None:
    migration = await world.dual_write()
    elsewhere = await world.process()
    async with (
        writing(elsewhere, world.tenant) as writers,
        world.open_transaction(world.tenant),
    ):
        asked = await asked_while_held(world, elsewhere, migration)
        before = writers.acknowledged
        with pytest.raises(CutoverTimeoutError):
            await asked
    # One attempt is a quarter of the budget.
    assert writers.longest < BUDGET / 4 + MARGIN
    assert writers.acknowledged > before + 8


async def test_a_target_that_stalls_under_the_fence_makes_the_cutover_give_up(
    world: World,
) -> None:
    await world.seed(10)
    elsewhere = await world.process(cutover_timeout_seconds=1.5)
    migration = await world.dual_write(process=elsewhere)
    staller = await world.connect("target")
    async with writing(elsewhere, world.tenant) as writers:
        async with world.open_transaction(world.tenant) as blocker:
            asked = await asked_while_held(world, elsewhere, migration)
            await staller.execute("begin; select from eventsource_copy_progress for update")
            await blocker.execute("rollback")
            with pytest.raises(CutoverTimeoutError) as caught:
                await asked
        assert caught.value.blocked_writers > 0
        await assert_still_at_the_source(world)
        await staller.execute("rollback")
        assert writers.longest < 1.5 + MARGIN
        done = await elsewhere.coordinator.initiate_cutover(migration.id)
    await assert_at_the_target(world, done)


async def test_writers_of_several_processes_follow_the_move_without_an_error(
    world: World,
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    others = [await world.process(), await world.process(route_ttl_seconds=60)]
    async with contextlib.AsyncExitStack() as stack:
        writers = [
            await stack.enter_async_context(writing(process, world.tenant)) for process in others
        ]
        await until(lambda: _all_wrote(writers, 20), "appends")
        done = await world.coordinator.initiate_cutover(migration.id)
        assert done.cutover_pause_ms is not None
        assert done.cutover_pause_ms < BUDGET * 1000
        await until(lambda: _all_wrote(writers, 60), "appends")
    rows = await world.target.fetch(
        f"select aggregate_id, count(*), max(version) from {table('target')}"
        " where event_type = 'world.noted' group by 1"
    )
    there = {row[0]: (row[1], row[2]) for row in rows}
    for group in writers:
        for stream, version in group.streams.items():
            assert there[stream] == (version, version)
    await assert_at_the_target(world, done)


async def _all_wrote(writers: list[Writers], count: int) -> bool:
    return all(group.acknowledged >= count for group in writers)


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
        await until(lambda: _waits_for_the_lock(world), "recovery at the lock")
        assert await _is(world, migration, "cutover_paused")
    done = await asked
    await assert_at_the_target(world, done)
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    told = [e.details for e in await log.get_by_migration(migration.id)]
    assert {"recovered": "nothing was decided"} in told


async def _is(world: World, migration: Migration, state: str) -> bool:
    return (await world.here.migrations.get(migration.id)).state == state


async def test_a_pause_that_nobody_asked_for_any_more_ends_in_dual_write(world: World) -> None:
    migration = await world.dual_write()
    await world.coordinator.close()
    await world.control.execute("update tenant_migrations set state = 'cutover_paused'")
    elsewhere = await world.process()
    await elsewhere.coordinator.resume_migration(migration.id)
    await world.reach(migration, "dual_write")
    await assert_still_at_the_source(world)


class Stop:
    """Makes the driver hang at a function of a module, as one that dies there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
        self.reached = asyncio.Event()
        self._monkeypatch, self._where, self._name = monkeypatch, where, name
        self._original = getattr(where, name)

        async def hang(*_: Any, **__: Any) -> None:
            self.reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(where, name, hang)

    async def kill(self, driver: Process) -> None:
        await asyncio.wait_for(self.reached.wait(), 20)
        await driver.stop()
        self._monkeypatch.setattr(self._where, self._name, self._original)


async def lost_driver(world: World, monkeypatch: pytest.MonkeyPatch, function: str) -> Migration:
    """A cutover that was decided and whose driver is gone before ``function`` of flip."""
    await world.seed(10)
    driver = await world.process()
    migration = await world.dual_write(process=driver)
    stop = Stop(monkeypatch, flip, function)
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
        assert await _is(world, migration, "cutover_paused")
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
        self.links.fence.terminate()
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
            self.links.fence.terminate()
            raise ConnectionResetError("the connection was lost")
        await commit(self)

    monkeypatch.setattr(Cutover, "_commit", unsent)
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert len(tries) == 2
    await assert_at_the_target(world, done)


async def test_a_commit_that_is_still_under_way_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    driver = await world.process(cutover_timeout_seconds=10)
    migration = await world.dual_write(process=driver)
    deciding = asyncio.Event()
    held: list[asyncpg.Connection] = []

    async def slow(self: Cutover) -> None:
        # The server has the COMMIT and its driver is gone: the session lives on for a while.
        held.append(self.links.fence)
        deciding.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Cutover, "_commit", slow)
    monkeypatch.setattr("eventsource.migration.cutover.Cutover._fenced", _left_open)
    asked = asyncio.create_task(driver.coordinator.initiate_cutover(migration.id, force=True))
    await asyncio.wait_for(deciding.wait(), 20)
    monkeypatch.setattr("eventsource.migration.driver.Links.close", _keep_the_fence)
    await driver.stop()
    asked.cancel()
    monkeypatch.undo()
    # Nobody asks any more: what is found is all that can finish it.
    await world.control.execute("update tenant_migrations set cutover_request = null")
    recovering = asyncio.create_task(world.coordinator.resume_migration(migration.id))
    await until(lambda: _waits_for_the_lock(world), "recovery at the lock")
    assert await _is(world, migration, "cutover_paused")
    await held[0].execute("commit")
    held[0].terminate()
    await recovering
    await assert_at_the_target(world, migration)


@contextlib.asynccontextmanager
async def _left_open(self: Cutover, wait: float, budget: float) -> AsyncIterator[bool]:
    await self.links.fence.execute("begin")
    await guard.lock_exclusively(self.links.fence, self.fence)
    yield True


async def _keep_the_fence(self: Any) -> None:
    for connection in (self.source, self.target, self.control, self.watch):
        connection.terminate()


async def _waits_for_the_lock(world: World) -> bool:
    return bool(
        await world.source.fetchval(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            " and mode = 'ExclusiveLock'"
        )
    )


@pytest.mark.parametrize("frozen_at", ["run", "_fenced"])
async def test_a_driver_that_was_frozen_before_the_lock_decides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, frozen_at: str
) -> None:
    await world.seed(10)
    driver = await world.process()
    migration = await world.dual_write(process=driver)
    frozen, thawed, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
    run, fenced, decision = Cutover.run, Cutover._fenced, flip.decision

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

    async def sleep_on(self: Watch) -> None:
        await asyncio.Event().wait()

    async def thaw_after(*arguments: Any) -> Any:
        # The worst moment: the new driver has just read that nothing was decided.
        found = await decision(*arguments)
        thawed.set()
        await asyncio.wait_for(gone.wait(), 20)
        return found

    monkeypatch.setattr(Cutover, "run", freeze_and_run)
    monkeypatch.setattr(Cutover, "_fenced", freeze_and_fence)
    monkeypatch.setattr(Watch, "run", sleep_on)
    await driver.coordinator.close()
    await driver.coordinator.resume_migration(migration.id)
    asked = asyncio.create_task(driver.coordinator.initiate_cutover(migration.id, force=True))
    await asyncio.wait_for(frozen.wait(), 20)
    monkeypatch.undo()
    monkeypatch.setattr(flip, "decision", thaw_after)
    await world.control.execute("update tenant_migrations set driver_expires_at = now()")
    await world.coordinator.resume_migration(migration.id)
    await asyncio.wait_for(gone.wait(), 20)
    assert await world.source.fetchval("select state from eventsource_fences") == "open"
    monkeypatch.undo()
    done = await asked
    await assert_at_the_target(world, done)


async def test_a_frozen_driver_does_not_hold_writers_longer_than_its_budget(
    world: World, monkeypatch: pytest.MonkeyPatch, source_cluster: Cluster
) -> None:
    await world.seed(10)
    driver = await world.process(cutover_timeout_seconds=0.5)
    migration = await world.dual_write(process=driver)
    under_the_fence, waits = Passes.under_the_fence, []

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


async def test_a_driver_frozen_behind_the_decision_lets_writers_go(
    world: World, monkeypatch: pytest.MonkeyPatch, source_cluster: Cluster
) -> None:
    await world.seed(10)
    driver = await world.process(cutover_timeout_seconds=5)
    migration = await world.dual_write(process=driver)
    open_target, waits = flip.open_target, []

    async def freeze(*arguments: Any) -> None:
        # It is refused then, since the tenant has moved.
        waits.append(_frozen_for(1.2, source_cluster, world, answer=1))
        await open_target(*arguments)

    monkeypatch.setattr(flip, "open_target", freeze)
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


async def test_a_row_that_differs_under_the_fence_flips_nothing(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    migrator = await world.connect("target", **{guard.MIGRATOR_SETTING: str(migration.id)})
    elsewhere = await world.process()
    late = await world.connect()
    await late.execute("begin")
    row = await insert(late, world.tenant)
    asked = await asked_while_held(world, elsewhere, migration)
    # What the mirror would have written, but for its content.
    await migrator.execute(
        f"insert into {table('target')} (global_position, event_id, aggregate_id, aggregate_type,"
        " event_type, tenant_id, version, timestamp, payload)"
        " values ($1, $2, $3, 'Note', 'world.noted', $4, 1, now(), '{\"n\": 2}')",
        row["global_position"], row["event_id"], row["aggregate_id"], world.tenant,
    )  # fmt: skip
    await late.execute("commit")
    with pytest.raises(ConsistencyError):
        await asked
    await assert_still_at_the_source(world)
    left = await world.coordinator.get_migration(migration.id)
    assert left.state in ("dual_write", "failed")
    await world.coordinator.abort_migration(migration.id)
    assert await world.ids("target") == []
    done = await world.migrate()
    await assert_at_the_target(world, done)


async def test_a_difference_that_the_verification_finds_flips_nothing(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    migrator = await world.connect("target", **{guard.MIGRATOR_SETTING: str(migration.id)})
    change = f"update {table('target')} set payload = payload || $1 where global_position = 5"
    await migrator.execute(change, '{"n": -1}')
    for _ in range(2):
        with pytest.raises(ConsistencyError, match="payload"):
            await world.coordinator.initiate_cutover(migration.id)
        await assert_still_at_the_source(world)
        assert await _is(world, migration, "dual_write")
    await migrator.execute(change, '{"n": 4}')
    done = await world.coordinator.initiate_cutover(migration.id)
    await assert_at_the_target(world, done)


async def test_force_skips_the_verification(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    migrator = await world.connect("target", **{guard.MIGRATOR_SETTING: str(migration.id)})
    await migrator.execute(f"update {table('target')} set actor_id = 'x' where version = 5")
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert done.state is MigrationState.MIGRATED


async def test_an_unexpected_error_under_the_fence_leaves_no_pause_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()

    async def broken(self: Passes) -> Any:
        raise MigrationError("the target is out of sorts")

    with monkeypatch.context() as patched:
        patched.setattr(Passes, "under_the_fence", broken)
        with pytest.raises(MigrationError, match="out of sorts"):
            await world.coordinator.initiate_cutover(migration.id, force=True)
        await world.reach(migration, "dual_write")
    await assert_still_at_the_source(world)
    done = await world.coordinator.initiate_cutover(migration.id)
    await assert_at_the_target(world, done)


async def test_an_abort_asked_for_before_the_fence_is_obeyed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    verified, go_on = asyncio.Event(), asyncio.Event()

    async def verify(_: Migration) -> None:
        verified.set()
        await go_on.wait()

    monkeypatch.setattr(
        "eventsource.migration.drivers.Drivers._verify",
        lambda self, m: verify(m),
    )
    await world.here.coordinator.close()
    await world.here.coordinator.resume_migration(migration.id)
    elsewhere = await world.process()
    cutting = asyncio.create_task(elsewhere.coordinator.initiate_cutover(migration.id))
    await asyncio.wait_for(verified.wait(), 20)
    aborting = asyncio.create_task(elsewhere.coordinator.abort_migration(migration.id))
    await until(lambda: _abort_is_asked(world, migration), "the request")
    go_on.set()
    assert (await aborting).state is MigrationState.ROLLED_BACK
    with pytest.raises(MigrationError):
        await cutting


async def _abort_is_asked(world: World, migration: Migration) -> bool:
    return (await world.here.migrations.get(migration.id)).abort_requested is not None
