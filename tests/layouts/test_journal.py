"""What the guard writes down, and what a pass makes of it: updates, deletes, and much at once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import CutoverTimeoutError, MigrationState, PreflightError
from eventsource.migration.journaled import cutover, exact_pass, passes
from tests.support import marten
from tests.support.reading_writer import reads_then_writes
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, rows
from tests.support.worlds.two_servers import FENCE_LOCK_CLASS

TABLES = ("mt_streams", "mt_events")


async def equal(world: LayoutWorld, tenant: str = "acme", less: int = 0) -> None:
    """Every row of both tables; ``less`` is what numbers at the target are higher by."""
    for table in TABLES:
        here = await rows(world.source, table, "tenant_id = $1", tenant)
        there = await world.target.fetch(
            "select (to_jsonb(t) || case when to_jsonb(t) ? 'seq_id' then"
            " jsonb_build_object('seq_id', (to_jsonb(t) ->> 'seq_id')::bigint - $2::bigint)"
            f" else '{{}}' end)::text as row from {table} t where tenant_id = $1 order by 1",
            tenant, less,
        )  # fmt: skip
        assert [each["row"] for each in there] == here, table


async def followed(world: LayoutWorld) -> None:
    """Until the target holds what the source has now."""

    async def same() -> bool:
        for table in TABLES:
            here = await rows(world.source, table, "tenant_id = 'acme'")
            if here != await rows(world.target, table, "tenant_id = 'acme'"):
                return False
        return True

    await until(same, "the target to hold the same rows")


async def in_dual_write(world: LayoutWorld, streams: int = 10):  # type: ignore[no-untyped-def]
    for _ in range(streams):
        await marten.append(world.source, "acme", uuid4(), 3)
        await marten.append(world.source, "umbrella", uuid4(), 1)
    migration = await world.start("acme")
    return await world.reaches(migration, MigrationState.DUAL_WRITE)


async def test_updates_deletes_and_changes_of_key_and_tenant_travel(shop: LayoutWorld) -> None:
    migration = await in_dual_write(shop)
    streams = [row[0] for row in await shop.source.fetch(
        "select id from mt_streams where tenant_id = 'acme' order by id")]  # fmt: skip
    await shop.source.execute("update mt_events set data = '{\"a\": 1}' where version = 2")
    await shop.source.execute("delete from mt_streams where id = $1", streams[0])
    await shop.source.execute(
        "begin; update mt_events set seq_id = -seq_id where tenant_id = 'acme' and version = 1;"
        " update mt_events set seq_id = -seq_id where tenant_id = 'acme' and version = 1; commit"
    )
    # Two rows that exchange a unique value in one transaction.
    await shop.source.execute(
        "update mt_events set version = version + 100 where stream_id = $1", streams[1]
    )
    await shop.source.execute(
        "update mt_events set version = case version when 101 then 3 when 103 then 1 else 2 end"
        " where stream_id = $1",
        streams[1],
    )
    await followed(shop)
    await shop.coordinators[0].initiate_cutover(migration.id)
    await equal(shop)


async def test_a_tenant_that_has_moved_leaves_no_journal(shop: LayoutWorld) -> None:
    migration = await in_dual_write(shop)
    await shop.source.execute("update mt_events set data = '{\"a\": 1}' where version = 2")
    await shop.coordinators[0].initiate_cutover(migration.id)

    async def is_gone() -> bool:
        return not await shop.source.fetchval(
            "select exists (select from eventsource_changes where fence_id <> 0)"
            " or exists (select from pg_class where relname like 'eventsource_changes_of_%')"
        )

    await until(is_gone, "the journal to be forgotten")
    # What it has left is still refused, and deleted as the owner was told.
    with pytest.raises(asyncpg.PostgresError, match="moved"):
        await shop.source.execute("update mt_events set data = '{}' where tenant_id = 'acme'")
    async with shop.source.transaction():
        await shop.source.execute(f"set local eventsource.migration = '{migration.id}'")
        await shop.source.execute("delete from mt_events where tenant_id = 'acme'")
        await shop.source.execute("delete from mt_streams where tenant_id = 'acme'")
    # Others leave the same tables beside it, and it may be told so again.
    await shop.move("umbrella")
    with pytest.raises(asyncpg.PostgresError, match="moved"):
        await marten.append(shop.source, "acme", uuid4(), 1)


async def test_a_writer_that_has_read_its_table_is_not_deadlocked_by_an_abort(
    shop: LayoutWorld,
) -> None:
    """An abort drops the triggers, for which readers have to be gone too."""
    migration = await in_dual_write(shop, 2)

    async def write(connection: asyncpg.Connection) -> None:
        await connection.execute("update mt_events set data = '{}' where tenant_id = 'umbrella'")

    async with reads_then_writes(shop.dsns["source"], "mt_events", write):
        await shop.coordinators[0].abort_migration(migration.id)
    assert not await shop.source.fetch("select tgname from pg_trigger where not tgisinternal")


async def test_much_at_once_goes_in_portions_and_is_equal(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "EXACT_KEYS", 20)
    migration = await in_dual_write(shop)
    async with marten.Writers(shop.dsns["source"], ["acme"]) as writers:
        for _ in range(5):
            await shop.source.execute(
                "update mt_events set data = data || '{\"n\": 1}' where tenant_id = 'acme'"
            )
            await asyncio.sleep(0.2)
        writers.stopping = True
    assert writers.errors == []
    await followed(shop)
    await shop.coordinators[0].initiate_cutover(migration.id)
    await equal(shop)


@pytest.mark.parametrize(
    "unseen",
    [
        "alter table mt_events disable trigger all;"
        " update mt_events set data = '{}' where version = 1;"
        " alter table mt_events enable trigger all",
        "alter table mt_events alter column data type jsonb using '{\"rewritten\": true}'::jsonb",
    ],
    ids=["triggers switched off and on", "a column rewritten"],
)
async def test_what_passes_the_guard_by_is_noticed_and_carried_again(
    shop: LayoutWorld, unseen: str
) -> None:
    migration = await in_dual_write(shop)
    await shop.source.execute(f"begin; {unseen}; commit")
    await followed(shop)
    for _ in range(3):
        try:
            await shop.coordinators[0].initiate_cutover(migration.id)
            break
        except (PreflightError, CutoverTimeoutError):
            await asyncio.sleep(0.5)
    await equal(shop)


async def test_a_target_in_use_keeps_its_own_and_numbers_the_rest_after_it(
    shop: LayoutWorld,
) -> None:
    for _ in range(4):
        await marten.append(shop.target, "native", uuid4(), 5)
    native = await rows(shop.target, "mt_events", "tenant_id = 'native'")
    migration = await in_dual_write(shop)
    offset = (await shop.coordinators[0].get_migration(migration.id)).position_offset
    assert offset == 20
    await marten.append(shop.target, "native", uuid4(), 5)
    await shop.coordinators[0].initiate_cutover(migration.id)
    await equal(shop, less=20)
    assert set(native) <= set(await rows(shop.target, "mt_events", "tenant_id = 'native'"))
    assert await shop.target.fetchval("select count(*) = count(distinct seq_id) from mt_events")


async def test_nobody_else_writes_the_tenant_at_the_target_before_it_has_arrived(
    shop: LayoutWorld,
) -> None:
    migration = await in_dual_write(shop)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await marten.append(shop.target, "acme", uuid4())
    assert refused.value.sqlstate == "EVF03"
    await marten.append(shop.target, "somebody", uuid4())
    await shop.coordinators[0].initiate_cutover(migration.id)
    await marten.append(shop.target, "acme", uuid4())


async def test_a_writer_does_not_overtake_a_cutover_that_waits(shop: LayoutWorld) -> None:
    """Otherwise a tenant that writes all the time would never leave."""
    await in_dual_write(shop)
    lock = await shop.source.fetchval(
        "select lock_id from eventsource_fences where role = 'source'"
    )
    early, cutover, late = [await asyncpg.connect(shop.dsns["source"]) for _ in range(3)]

    async def waits(connection: asyncpg.Connection) -> None:
        await until(
            lambda: shop.source.fetchval(
                "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1",
                connection.get_server_pid(),
            ),
            "a session to wait for a lock",
        )

    await early.execute("begin")
    await marten.append(early, "acme", uuid4(), 1)
    await cutover.execute("begin")
    asking = asyncio.create_task(
        cutover.execute(f"select pg_advisory_xact_lock({FENCE_LOCK_CLASS}, {lock})")
    )
    await waits(cutover)
    writing = asyncio.create_task(marten.append(late, "acme", uuid4(), 1))
    await waits(late)
    await early.execute("commit")
    await asking
    assert not writing.done()
    await cutover.execute("rollback")
    await writing
    for connection in (early, cutover, late):
        await connection.close()


async def test_two_tenants_leave_at_the_same_time(shop: LayoutWorld) -> None:
    for tenant in ("acme", "umbrella", "initech"):
        for _ in range(5):
            await marten.append(shop.source, tenant, uuid4(), 3)
    async with marten.Writers(shop.dsns["source"], ["acme", "umbrella", "initech"]) as writers:
        first = await shop.start("acme")
        second = await shop.start("umbrella")
        for each in (first, second):
            await shop.reaches(each, MigrationState.DUAL_WRITE)
            await shop.coordinators[0].initiate_cutover(each.id)
    assert writers.errors == []
    assert writers.sent_on["initech"] == []
    for tenant in ("acme", "umbrella"):
        offset = await shop.control.fetchval(
            "select position_offset from tenant_migrations where tenant_id = $1", tenant
        )
        await equal(shop, tenant, less=offset)
    await marten.append(shop.source, "initech", uuid4())


async def test_what_is_read_under_the_fence_is_on_disk_before_the_target_has_it(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the source would take back what its writers did not wait for."""
    migration = await in_dual_write(shop, 2)
    hasty = await asyncpg.connect(
        shop.dsns["source"], server_settings={"synchronous_commit": "off"}
    )
    prepare, write = passes.JournaledPasses.prepare_last, exact_pass.ExactPass.write
    written: list[str] = []
    lags: list[bool] = []

    async def and_append(self: passes.JournaledPasses) -> None:
        await prepare(self)
        await marten.append(hasty, "acme", uuid4(), 1)
        written.append(await hasty.fetchval("select pg_current_wal_insert_lsn()::text"))

    async def look_and_write(self: exact_pass.ExactPass) -> int:
        lags.extend(
            [
                await shop.source.fetchval(
                    "select $1::text::pg_lsn > pg_current_wal_flush_lsn()", each
                )
                for each in written
            ]
        )
        return await write(self)

    monkeypatch.setattr(passes.JournaledPasses, "prepare_last", and_append)
    monkeypatch.setattr(exact_pass.ExactPass, "write", look_and_write)
    await shop.source.execute("alter system set wal_writer_delay = '10s'")
    await shop.source.execute("select pg_reload_conf()")
    try:
        await shop.coordinators[0].initiate_cutover(migration.id)
    finally:
        await shop.source.execute("alter system reset wal_writer_delay")
        await shop.source.execute("select pg_reload_conf()")
        await hasty.close()
    assert lags == [False]
    await equal(shop)


async def test_tables_are_held_for_as_long_as_a_cutover_takes(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last catch-up before the fence takes longer than a silent session may live."""
    migration = await in_dual_write(shop, 2)
    monkeypatch.setattr(cutover, "HELD_SECONDS", 0.5)
    prepare, held = passes.JournaledPasses.prepare_last, 0

    async def late(self: passes.JournaledPasses) -> None:
        nonlocal held
        await asyncio.sleep(2 * (cutover.HELD_SECONDS + migration.config.cutover_timeout_seconds))
        held = await shop.source.fetchval(
            "select count(*) from pg_locks where relation = 'mt_events'::regclass"
            " and mode = 'ShareUpdateExclusiveLock' and granted"
        )
        await prepare(self)

    monkeypatch.setattr(passes.JournaledPasses, "prepare_last", late)
    await shop.coordinators[0].initiate_cutover(migration.id)
    assert held == 1
    await equal(shop)
