"""The guard: what each kind of writer meets while a tenant migrates and after it has moved."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from uuid import uuid4

import pytest

from eventsource.migration import WritePausedError
from eventsource.migration.connections import session_marks
from eventsource.migration.tables import fences
from tests.support.application import TARGET
from tests.support.one_fence import BUDGET, MIGRATION, guarded, refused
from tests.support.worlds.three_databases import World, insert, is_blocked, table


async def test_a_row_that_another_trigger_gives_to_the_tenant_is_guarded(world: World) -> None:
    it = await guarded(world)
    await it.set_state("moved")
    await world.source.execute(
        f"""
        create function adopt() returns trigger language plpgsql as
        $$ begin new.tenant_id := '{world.tenant}'; return new; end $$;
        create trigger set_tenant before insert on events for each row execute function adopt();
        """
    )
    await refused(insert(world.source, world.other), "EVF01")


async def test_the_tenant_appends_while_its_fence_is_open_but_changes_nothing(
    world: World,
) -> None:
    await guarded(world)
    row = await insert(world.source, world.tenant)
    event = row["event_id"]
    change = await refused(
        world.source.execute("update events set payload = '{}' where event_id = $1", event),
        "EVF02",
    )
    assert change.hint is not None
    assert "abort the migration" in change.hint
    erase = await refused(
        world.source.execute("delete from events where event_id = $1", event), "EVF02"
    )
    assert erase.hint
    await refused(
        world.source.execute(
            "update events set tenant_id = $2 where event_id = $1", event, world.other
        ),
        "EVF02",
    )
    empty = await refused(world.source.execute("truncate events"), "EVF02")
    assert empty.hint
    assert await world.ids("source") == [event]


async def test_what_a_moved_tenant_left_goes_only_when_the_session_says_so(world: World) -> None:
    it = await guarded(world)
    event = (await insert(world.source, world.tenant))["event_id"]
    await it.set_state("moved")
    erase = world.source.execute("delete from events where event_id = $1", event)
    error = await refused(erase, "EVF02")
    assert error.hint is not None
    cleaner = await world.connect()
    await cleaner.execute(error.hint[error.hint.index("set ") : error.hint.rindex(" in the")])
    await refused(cleaner.execute("update events set payload = '{}'"), "EVF01")
    await cleaner.execute("delete from events where event_id = $1", event)
    await refused(insert(cleaner, world.tenant), "EVF01")


async def test_a_foreign_row_cannot_be_made_the_tenants(world: World) -> None:
    it = await guarded(world)
    event = (await insert(world.source, world.other))["event_id"]
    take = "update events set tenant_id = $2 where event_id = $1"
    await refused(world.source.execute(take, event, world.tenant), "EVF02")
    await it.set_state("moved")
    await refused(world.source.execute(take, event, world.tenant), "EVF01")
    assert await world.ids("source") == []


async def test_other_tenants_do_as_they_like_whatever_the_fence_says(world: World) -> None:
    it = await guarded(world)
    async with it.closed_to_writers() as holder:
        writer = await world.connect(lock_timeout="100ms")
        event = (await insert(writer, world.other))["event_id"]
        await writer.execute("update events set actor_id = 'x' where event_id = $1", event)
        await it.move(holder)
        await writer.execute("update events set actor_id = 'y' where event_id = $1", event)
        await writer.execute("delete from events where event_id = $1", event)
        await insert(writer, world.other)


async def test_a_replica_role_session_meets_the_guard(world: World) -> None:
    it = await guarded(world)
    writer = await world.connect(session_replication_role="replica")
    await insert(writer, world.tenant)
    await it.set_state("moved")
    await refused(insert(writer, world.tenant), "EVF01")
    await refused(writer.execute("truncate events"), "EVF02")


async def test_a_role_that_may_only_insert_meets_the_guard(world: World) -> None:
    it = await guarded(world)
    name = f"app_{uuid4().hex[:8]}"
    await world.source.execute(f"create role {name}; grant select, insert on events to {name}")
    try:
        writer = await world.connect()
        await writer.execute(f"set role {name}")
        await insert(writer, world.tenant)
        await writer.execute("begin isolation level repeatable read")
        await insert(writer, world.tenant)
        await writer.execute("commit")
        await it.set_state("moved")
        await refused(insert(writer, world.tenant), "EVF01")
    finally:
        await writer.close()
        await world.source.execute(f"drop owned by {name}; drop role {name}")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_snapshot_older_than_the_fence_row_is_refused(world: World, level: str) -> None:
    writer = await world.connect()
    await writer.execute(f"begin isolation level {level}")
    await writer.fetchval("select count(*) from events")
    # Its read lock on the table does not keep the triggers from being made.
    await guarded(world)
    await refused(insert(writer, world.tenant), "40001")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_snapshot_older_than_the_decision_is_refused(world: World, level: str) -> None:
    it = await guarded(world)
    writer = await world.connect()
    await writer.execute(f"begin isolation level {level}")
    await writer.fetchval("select count(*) from events")
    async with it.closed_to_writers() as holder:
        await it.move(holder)
    await refused(insert(writer, world.tenant), "40001")
    await writer.execute(f"rollback; begin isolation level {level}")
    await refused(insert(writer, world.tenant), "EVF01")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_frozen_snapshot_that_waits_out_the_decision_is_refused(
    world: World, level: str
) -> None:
    it = await guarded(world)
    writer = await world.connect()
    await writer.execute(f"begin isolation level {level}")
    await writer.fetchval("select count(*) from events")
    async with it.closed_to_writers() as holder:
        waiting = asyncio.create_task(insert(writer, world.tenant))
        await is_blocked(world, writer.get_server_pid())
        await it.move(holder)
    await refused(waiting, "40001")


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
async def test_a_new_snapshot_appends_while_the_fence_is_open(world: World, level: str) -> None:
    await guarded(world)
    writer = await world.connect(default_transaction_isolation=level)
    await insert(writer, world.tenant)
    assert len(await world.ids("source")) == 1


async def test_no_writer_chooses_its_transaction_id(world: World) -> None:
    await guarded(world)
    writer = await world.connect()
    forged = await insert(writer, world.tenant, transaction_id="3")
    own = int(forged["transaction_id"])
    assert own > 3
    async with writer.transaction():
        top = int(await writer.fetchval("select pg_current_xact_id()::text"))
        async with writer.transaction():
            inner = await insert(writer, world.tenant, transaction_id="18446744073709551615")
        with contextlib.suppress(ZeroDivisionError):
            async with writer.transaction():
                await insert(writer, world.tenant)
                raise ZeroDivisionError
        last = await insert(writer, world.tenant, transaction_id="5")
    # Savepoints have ids of their own; snapshots list the transaction's.
    assert [int(inner["transaction_id"]), int(last["transaction_id"])] == [top, top]


async def test_a_writer_waits_under_the_lock_and_goes_on_when_it_is_given_back(
    world: World,
) -> None:
    it = await guarded(world)
    writer = await world.connect()
    async with it.closed_to_writers():
        waiting = asyncio.create_task(insert(writer, world.tenant))
        await is_blocked(world, writer.get_server_pid())
    row = await waiting
    assert await world.ids("source") == [row["event_id"]]


async def test_a_writer_that_waited_sees_what_was_decided_meanwhile(world: World) -> None:
    it = await guarded(world)
    writer = await world.connect()
    async with it.closed_to_writers() as holder:
        waiting = asyncio.create_task(insert(writer, world.tenant))
        await is_blocked(world, writer.get_server_pid())
        await it.move(holder)
    error = await refused(waiting, "EVF01")
    assert json.loads(error.detail or "") == {
        "target_store_id": TARGET,
        "generation": 1,
        "migration_id": str(MIGRATION),
    }
    assert await world.ids("source") == []


async def test_a_writer_does_not_overtake_a_cutover_that_waits(world: World) -> None:
    """Otherwise a tenant that writes all the time would never leave."""
    it = await guarded(world)
    cutover, late = await world.connect(), await world.connect()
    async with world.open_transaction(world.tenant):
        await cutover.execute("begin")
        asking = asyncio.create_task(fences.lock_exclusively(cutover, it.fence))
        await is_blocked(world, cutover.get_server_pid())
        waiting = asyncio.create_task(insert(late, world.tenant))
        await is_blocked(world, late.get_server_pid())
    await asking
    await it.move(cutover)
    await refused(waiting, "EVF01")


async def test_a_writer_in_flight_keeps_the_lock_from_the_cutover(world: World) -> None:
    it = await guarded(world)
    cutover = await world.connect()
    async with world.open_transaction(world.tenant):
        await cutover.execute("begin; set local lock_timeout = '50ms'")
        await refused(fences.lock_exclusively(cutover, it.fence), "55P03")
        await cutover.execute("rollback")
    async with cutover.transaction():
        await fences.lock_exclusively(cutover, it.fence)


async def test_the_guards_patience_leaves_the_sessions_own_lock_timeout_alone(
    world: World,
) -> None:
    await guarded(world)
    writer = await world.connect(lock_timeout="123ms")
    async with writer.transaction():
        await insert(writer, world.tenant)
        assert await writer.fetchval("show lock_timeout") == "123ms"
    assert await writer.fetchval("show lock_timeout") == "123ms"


async def test_an_append_that_waited_too_long_is_told_that_writes_are_paused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "GUARD_PATIENCE_SECONDS", 0.2 - BUDGET)
    it = await guarded(world)
    async with it.closed_to_writers():
        with pytest.raises(WritePausedError) as caught:
            await world.here.append(world.tenant)
    assert caught.value.tenant_id == world.tenant
    assert 0.15 < caught.value.timeout_seconds < 1
    assert await world.ids("source") == []
    await world.here.append(world.tenant)


async def test_the_target_is_closed_to_applications_and_open_to_the_migrator(
    world: World,
) -> None:
    it = await guarded(world, "target")
    application = await world.connect("target", session_replication_role="replica")
    error = await refused(insert(application, world.tenant, side="target"), "EVF03")
    # With the migration's id a session could pass for the migrator's.
    assert json.loads(error.detail or "") == {"generation": 0}
    theirs = (await insert(application, world.other, side="target"))["event_id"]
    give = f"update {table('target')} set tenant_id = $1 where event_id = $2"
    await refused(application.execute(give, world.tenant, theirs), "EVF03")
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(MIGRATION)})
    event = (await insert(migrator, world.tenant, side="target"))["event_id"]
    stranger = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(uuid4())})
    await refused(insert(stranger, world.tenant, side="target"), "EVF03")
    for statement in ("update {} set payload = '{{}}'", "delete from {}"):
        await refused(
            application.execute(statement.format(table("target")) + " where event_id = $1", event),
            "EVF03",
        )
    await it.set_state("open")
    await insert(application, world.tenant, side="target")


async def test_the_rows_of_a_copy_into_the_target_are_written_page_by_page(world: World) -> None:
    """Counted by the records of the write-ahead log: one for each entry of an index, and one for
    each row only where the server inserts rows singly."""
    it = await guarded(world, "target")
    migrator = await world.connect("target", **{session_marks.MIGRATOR_SETTING: str(MIGRATION)})
    rows, indexes = 1000, 5
    lines = "".join(
        f"{uuid4()}\t{uuid4()}\t{world.tenant}\tNote\tnoted\t1\tnow\t{{}}\n" for _ in range(rows)
    )
    columns = "event_id, aggregate_id, tenant_id, aggregate_type, event_type, version, timestamp"

    async def records() -> int:
        await migrator.execute("select pg_stat_force_next_flush()")
        return int(await migrator.fetchval("select wal_records from pg_stat_wal"))

    before = await records()
    await migrator.copy_to_table(
        it.table.address.table, schema_name=it.table.address.schema,
        source=io.BytesIO(lines.encode()),
        columns=[*columns.split(", "), "payload"],
    )  # fmt: skip
    assert indexes * rows < await records() - before < (indexes + 0.5) * rows


async def test_without_its_fence_row_the_guard_lets_nobody_through(world: World) -> None:
    await guarded(world)
    await world.source.execute("delete from eventsource_fences")
    await refused(insert(world.source, world.tenant), "EVF02")
    await insert(world.source, world.other)
