"""The passes as a driver runs them: which rows each one moves, and to which positions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration.errors import StoreGoneBackError
from eventsource.migration.event_table import of_store
from eventsource.migration.steps.passes import Passes
from eventsource.migration.tables import progress, snapshots, witnesses
from eventsource.migration.tables.witnesses import Witness
from tests.support.held_migration import SLOW
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, someone_blocked, table


@asynccontextmanager
async def in_flight_at_the_first_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch, *, then: int = 0
) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of the tenant that begins behind the guard and is open when S(0) is taken.

    S(0) shows ``then`` more events, whose positions are higher.
    """
    early = await world.connect()
    begin = Passes.begin

    async def begin_beside(self: Passes) -> None:
        if not early.is_in_transaction():
            await early.execute("begin")
            await insert(early, world.tenant)
            await world.seed(then)
        await begin(self)

    monkeypatch.setattr(Passes, "begin", begin_beside)
    yield early
    monkeypatch.setattr(Passes, "begin", begin)


async def row(world: World) -> asyncpg.Record:
    """The progress row."""
    found = await world.target.fetchrow("select * from eventsource_copy_progress")
    assert found is not None
    return found


async def test_a_transaction_in_flight_at_the_first_snapshot_is_carried_when_it_commits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(30)
    async with in_flight_at_the_first_snapshot(world, monkeypatch) as early:
        migration = await world.dual_write()
        await world.seed(30)
        await until(lambda: _rows_at_target(world, 60), "the rows of later transactions")
        await early.execute("commit")
    await until(lambda: _rows_at_target(world, 61), "the row of the early transaction")
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


async def _rows_at_target(world: World, count: int) -> bool:
    return len(await world.ids("target")) == count


async def test_a_resumed_copy_goes_on_with_the_snapshot_it_began_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(10)
    async with in_flight_at_the_first_snapshot(world, monkeypatch, then=190) as early:
        driver = await world.process(**SLOW)
        migration = await driver.start(world.tenant)
        await until(lambda: _cursor_is_behind(world, 20), "the cursor behind the open transaction")
        await world.coordinator.pause_migration(migration.id)
        before = await row(world)
        await early.execute("commit")
    await world.coordinator.resume_migration(migration.id)
    await until(lambda: _cursor_is_behind(world, before["last_position"]), "the next chunk")
    after = await row(world)
    if after["pass_number"] == before["pass_number"]:
        assert after["snapshot"] == before["snapshot"]
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert len(await world.ids("target")) == 201
    await world.assert_moved(done)


async def _cursor_is_behind(world: World, position: int) -> bool:
    found = await world.target.fetchrow("select * from eventsource_copy_progress")
    return found is not None and (
        found["last_position"] > position or found["proven_snapshot"] is not None
    )


async def test_everything_a_snapshot_shows_is_on_disk_before_the_snapshot_is_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash must not take back, or hand to another event, what the snapshot calls finished."""
    hasty = await world.connect(synchronous_commit="off")
    written: list[str] = []
    lags: list[int] = []
    take, begin_pass = snapshots.take, progress.begin_pass

    async def take_after_a_hasty_commit(connection: Any) -> Any:
        await insert(hasty, world.tenant)
        written.append(await hasty.fetchval("select pg_current_wal_insert_lsn()::text"))
        return await take(connection)

    async def look_then_begin(*arguments: Any, **named: Any) -> Any:
        if written:
            lags.append(
                await world.source.fetchval(
                    "select $1::text::pg_lsn - pg_current_wal_flush_lsn() > 0", written[-1]
                )
            )
        return await begin_pass(*arguments, **named)

    monkeypatch.setattr(
        "eventsource.migration.steps.passes.snapshots.take", take_after_a_hasty_commit
    )
    monkeypatch.setattr("eventsource.migration.steps.passes.progress.begin_pass", look_then_begin)
    async with world.lazy_log_writer():
        migration = await world.dual_write()
        await until(lambda: _enough(lags), "some passes")
        await world.coordinator.pause_migration(migration.id)
    assert lags == [False] * len(lags)


async def _enough(seen: list[int]) -> bool:
    return len(seen) > 5


async def test_rows_older_than_the_transaction_id_are_carried(world: World) -> None:
    await world.seed(40)
    await world.source.execute(
        "alter table events alter transaction_id drop not null;"
        "update events set transaction_id = null where global_position % 2 = 0"
    )
    done = await world.migrate()
    assert len(await world.ids("target")) == 40
    await world.assert_moved(done)


async def test_a_pass_beside_an_old_foreign_transaction_reads_only_what_is_new(
    world: World,
) -> None:
    foreign = await world.connect()
    await foreign.execute("begin; select pg_current_xact_id()")
    await world.seed(20_000)
    await world.source.execute("analyze events")
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    proven = (await row(world))["proven_snapshot"]
    await world.seed(15)
    plan = await world.source.fetchval(
        f"explain (analyze, format json) select from events where {snapshots.not_shown_by(proven)}",
        world.tenant,
    )
    assert _rows_touched(json.loads(plan)[0]["Plan"]) <= 30
    assert await world.coordinator.get_sync_lag(migration.id) == 15
    # What the driver itself reads: sessions tell when they end.
    await until(lambda: _none_drives(world), "the driver's sessions to end")
    before = await _rows_read_in_all(world)
    passes = (await row(world))["pass_number"]
    await world.coordinator.resume_migration(migration.id)
    await until(lambda: _rows_at_target(world, 20_015), "the new rows")
    await world.coordinator.pause_migration(migration.id)
    await until(lambda: _none_drives(world), "the driver's sessions to end")
    assert (await row(world))["pass_number"] > passes
    assert await _rows_read(world) - before < 1000
    await foreign.execute("rollback")


def _rows_touched(plan: dict[str, Any]) -> int:
    below = sum(_rows_touched(child) for child in plan.get("Plans", []))
    here = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return int(max(below, here + plan.get("Rows Removed by Index Recheck", 0)))


async def _rows_read(world: World) -> int:
    return int(
        await world.source.fetchval(
            "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables where relname = 'events'"
        )
    )


async def _rows_read_in_all(world: World) -> int:
    """With what idle sessions have read: they tell it ten seconds later, or when they end."""
    await world.source.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and state = 'idle'"
    )
    return await _rows_read(world)


async def _none_drives(world: World) -> bool:
    return not await world.source.fetchval(
        "select count(*) from pg_stat_activity where application_name like 'eventsource-migrate%'"
        " and datname = current_database()"
    )


async def test_a_target_in_use_keeps_its_positions_apart(world: World) -> None:
    await world.seed(30, world.other, side="target")
    await world.seed(50)
    neighbours: list[int] = []

    async def write_on(connection: asyncpg.Connection) -> None:
        while True:
            neighbours.append(
                (await insert(connection, world.other, side="target"))["global_position"]
            )
            await asyncio.sleep(0.002)

    writing = asyncio.create_task(write_on(await world.connect("target")))
    migration = await world.dual_write()
    await world.seed(50)
    seen = len(neighbours)
    await until(lambda: _longer(neighbours, seen + 20), "neighbours' events")
    done = await world.coordinator.initiate_cutover(migration.id)
    result = await world.here.append(world.tenant)
    seen = len(neighbours)
    await until(lambda: _longer(neighbours, seen + 5), "neighbours' events")
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await world.assert_moved(done)
    block = await row(world)
    first, last = block["position_offset"] + 1, block["last_target_position"]
    assert done.position_offset == block["position_offset"] >= 30
    assert not [position for position in neighbours if first <= position <= last]
    assert len(neighbours) == len(set(neighbours))
    assert result.global_position > last
    assert max(neighbours) > last > min(neighbours)


async def _longer(seen: list[int], count: int) -> bool:
    return len(seen) > count


async def test_a_position_drawn_before_the_block_and_committed_later_stays_in_front_of_it(
    world: World,
) -> None:
    await world.seed(10)
    async with world.open_transaction(world.other, "target") as late:
        drawn = await late.fetchval(f"select max(global_position) from {table('target')}")
        migration = await world.here.start(world.tenant)
        await someone_blocked(world, "create or replace trigger%", "target")
        await late.execute("commit")
    await world.reach(migration, "dual_write")
    assert (await row(world))["position_offset"] >= drawn
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


async def test_new_events_follow_all_carried_ones_after_the_flip(world: World) -> None:
    await world.seed(25)
    await world.seed(25, world.other)
    migration = await world.dual_write()
    stream = uuid4()
    before = await world.here.append(world.tenant, stream, 0, 3)
    await world.seed(10, world.other)
    done = await world.coordinator.initiate_cutover(migration.id)
    head = await world.source.fetchval("select last_value from events_global_position_seq")
    assert done.fence_position == head
    after = await world.here.append(world.tenant, stream, 3, 2)
    assert after.global_position > head
    positions = await world.target.fetch(
        f"select global_position from {table('target')} where aggregate_id = $1 order by version",
        stream,
    )
    assert [p[0] for p in positions] == sorted({p[0] for p in positions})
    assert before.global_position in [p[0] for p in positions]
    await world.assert_moved(done)


@pytest.mark.parametrize(
    "forget",
    [
        "delete from eventsource_witnesses",
        "update eventsource_witnesses set token = gen_random_uuid(), xid = pg_current_xact_id()",
        # As in a dump, whose rows have the columns of the original and headers of their own.
        "update eventsource_witnesses set passed_at = passed_at",
    ],
    ids=["restored", "another", "dumped"],
)
async def test_a_source_that_lacks_the_barrier_of_the_stored_pass_stops_everything(
    world: World, forget: str
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.source.execute(forget)
    before = await world.ids("target")
    await world.here.append(world.tenant)
    await world.coordinator.resume_migration(migration.id)

    async def waits() -> bool:
        found = await world.here.migrations.get(migration.id)
        return (found.state, found.error_code) == ("dual_write", "store_gone_back")

    await until(waits, "the migration to wait")
    with pytest.raises(StoreGoneBackError, match="does not hold the barrier of pass"):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    assert await waits()
    assert await world.source.fetchval("select state from eventsource_fences") == "open"
    assert await world.target.fetchval("select state from eventsource_fences") == "closed"
    assert [event for event in before if event not in await world.ids("target")] == []
    # An abort is the way out, and keeps what only the target has.
    lost = before[0]
    await world.source.execute("set session_replication_role = replica")
    await world.source.execute("alter table events disable trigger all")
    await world.source.execute("delete from events where event_id = $1", lost)
    await world.source.execute("alter table events enable always trigger eventsource_announce")
    aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state == "rolled_back"
    assert await world.ids("target") == []
    rescued = await world.target.fetch("select event_id from eventsource_rescued_events")
    assert [row[0] for row in rescued] == [lost]


async def test_a_source_that_lacks_the_barrier_under_the_fence_decides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address leads elsewhere since the last pass that was begun."""
    prepare_last = Passes.prepare_last

    async def prepare_and_forget(self: Passes) -> None:
        await prepare_last(self)
        await world.source.execute("delete from eventsource_witnesses")

    monkeypatch.setattr(Passes, "prepare_last", prepare_and_forget)
    await world.seed(10)
    migration = await world.dual_write()
    with pytest.raises(StoreGoneBackError, match="does not hold the barrier of pass"):
        await world.coordinator.initiate_cutover(migration.id)
    await world.reach(migration, "dual_write")
    [fence] = await world.source.fetch("select state, moved_to from eventsource_fences")
    assert tuple(fence) == ("open", None)
    assert (await world.here.append(world.tenant)).success


async def test_the_barriers_of_the_last_thousand_passes_stay_and_no_others(
    world: World,
) -> None:
    """A target that has gone back by fewer passes finds its own; more would fill the table."""
    source, migration_id = await of_store(world.here.source), uuid4()
    other, before = Witness(1, uuid4()), None
    await witnesses.stand(source, uuid4(), other, None, "")
    for number in (1, 2, 3, 1_002, 1_003):
        new = Witness(number, uuid4())
        await witnesses.stand(source, migration_id, new, before, "")
        before = new
    kept = await world.source.fetch(
        "select pass_number from eventsource_witnesses where migration_id = $1 order by 1",
        migration_id,
    )
    assert [row["pass_number"] for row in kept] == [3, 1_002, 1_003]
    count = "select count(*) from eventsource_witnesses where token = $1"
    assert await world.source.fetchval(count, other.token) == 1


async def test_the_mapping_is_a_bijection_also_after_restarts(world: World) -> None:
    await world.seed(200)
    driver = await world.process(**SLOW)
    migration = await driver.start(world.tenant)
    for position in (20, 60):
        await until(partial(_cursor_is_behind, world, position), "a chunk")
        await world.coordinator.pause_migration(migration.id)
        await world.coordinator.resume_migration(migration.id)
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    await world.assert_moved(done)
    [counted] = await world.control.fetch(
        "select count(*), count(distinct source_position), count(distinct target_position),"
        " count(distinct event_id) from migration_position_mappings"
    )
    assert set(counted) == {200}
