"""The cutover: its budget, its proof, and every place where its driver can be lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from eventsource.migration import (
    ConsistencyError,
    CutoverTimeoutError,
    Migration,
    MigrationError,
    MigrationState,
)
from eventsource.migration.connections import session_marks
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.migration.steps.passes import Passes
from tests.support.application import Writers, writing
from tests.support.at_the_cutover import (
    BUDGET,
    MARGIN,
    asked_while_held,
    assert_at_the_target,
    assert_still_at_the_source,
    stands_in,
)
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table


async def spent_paused(world: World, migration: Migration) -> float:
    """How long the journal says that the last attempt took, in seconds."""
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    at = {e.event_type: e.created_at for e in await log.get_by_migration(migration.id)}
    return (at["state:dual_write"] - at["state:cutover_paused"]).total_seconds()


@pytest.mark.alone
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
                assert "orders-17" in one.application
            else:
                assert (one.pid, one.state) == (blocker.get_server_pid(), "idle in transaction")
            assert f"pid {one.pid} ({one.application}" in str(found)
            # A statement may hold what nobody but its application should see.
            assert "insert" not in str(found)
            assert (await world.coordinator.get_migration(migration.id)).state == "dual_write"
            await assert_still_at_the_source(world)
            if prepared:
                await blocker.execute("commit prepared 'orders-17'")
        assert writers.longest < BUDGET + MARGIN
        done = await elsewhere.coordinator.initiate_cutover(migration.id)
    await assert_at_the_target(world, done)
    found_there = len(await world.ids("target"))
    assert found_there == 10 + writers.acknowledged + 1 + prepared + 1


@pytest.mark.alone
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
    # Between two attempts they have as long as one takes; what is merely let through is four each.
    assert writers.acknowledged > before + 40


@pytest.mark.alone
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


@pytest.mark.alone
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


async def test_a_row_that_differs_under_the_fence_flips_nothing(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(migration.id)})
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
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(migration.id)})
    change = f"update {table('target')} set payload = payload || $1 where global_position = 5"
    await migrator.execute(change, '{"n": -1}')
    for _ in range(2):
        with pytest.raises(ConsistencyError, match=r"position 5\), field payload: ") as caught:
            await world.coordinator.initiate_cutover(migration.id)
        assert "<" not in str(caught.value)
        await assert_still_at_the_source(world)
        assert await stands_in(world, migration, "dual_write")
    await migrator.execute(change, '{"n": 4}')
    done = await world.coordinator.initiate_cutover(migration.id)
    await assert_at_the_target(world, done)


async def test_force_skips_the_verification(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(migration.id)})
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

    async def verify(*_: object) -> None:
        verified.set()
        await go_on.wait()

    monkeypatch.setattr("eventsource.migration.driver.verification.verify", verify)
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
