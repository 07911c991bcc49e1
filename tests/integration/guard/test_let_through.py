"""What a transaction remembers of the fence that has let it through, and when it looks again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration.tables import fences, standby
from tests.support.application import SOURCE
from tests.support.one_fence import BUDGET, Guarded, guarded, refused
from tests.support.worlds.three_databases import World, insert

PASSED = "select coalesce(current_setting('eventsource.passed', true), '')"


async def looks(connection: asyncpg.Connection) -> int:
    """How often this transaction has looked at a fence."""
    found: int = await connection.fetchval(
        "select coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::int"
        " from pg_stat_xact_user_tables where relname = 'eventsource_fences'"
    )
    return found


async def secret(world: World, side: str) -> int:
    found: int = await getattr(world, side).fetchval(
        "select pg_sequence_last_value('eventsource_fence_secret')"
    )
    return found


async def many(world: World, connection: asyncpg.Connection, rows: int = 5) -> None:
    await connection.execute(
        "insert into events (aggregate_id, tenant_id, version, event_id, aggregate_type,"
        " event_type, timestamp, payload) select gen_random_uuid(), $1, 1, gen_random_uuid(),"
        " 'Note', 'world.noted', now(), '{}' from generate_series(1, $2::int)",
        world.tenant, rows,
    )  # fmt: skip


async def moves(it: Guarded) -> None:
    """As a cutover does, which waits for nobody who has written."""
    async with it.closed_to_writers() as holder:
        await it.move(holder)


@pytest.fixture
async def it(world: World) -> Guarded:
    return await guarded(world)


@pytest.fixture
async def writer(world: World) -> asyncpg.Connection:
    return await world.connect()


async def test_a_fence_is_looked_at_twice_for_many_rows(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    for _ in range(2):
        async with writer.transaction():
            before = await looks(writer)
            await many(world, writer, 500)
            await many(world, writer, 500)
            # The first row does not know that it is not the only one.
            assert await looks(writer) - before == 2
        assert await writer.fetchval(PASSED) == ""


@pytest.mark.parametrize("change", ["update events set payload = '{}'", "delete from events"])
async def test_a_pass_is_one_for_appends_alone(
    world: World, it: Guarded, writer: asyncpg.Connection, change: str
) -> None:
    async with writer.transaction():
        await many(world, writer)
        assert await writer.fetchval(PASSED) != ""
        await refused(writer.execute(change), "EVF02")


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_under_a_frozen_snapshot_nothing_is_remembered(
    world: World, it: Guarded, writer: asyncpg.Connection, level: Any
) -> None:
    async with writer.transaction(isolation=level):
        before = await looks(writer)
        await many(world, writer, 5)
        assert await looks(writer) - before >= 5
        assert await writer.fetchval(PASSED) == ""


async def test_what_was_let_through_keeps_the_cutover_waiting(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    cutover = await world.connect()
    async with writer.transaction():
        await many(world, writer)
        await writer.execute("savepoint later")
        await many(world, writer)
        await writer.execute("rollback to savepoint later")
        await cutover.execute("begin; set local lock_timeout = '50ms'")
        await refused(fences.lock_exclusively(cutover, it.fence), "55P03")
        await cutover.execute("rollback")
        before = await looks(writer)
        await many(world, writer)
        assert await looks(writer) == before
    await moves(it)
    await refused(insert(writer, world.tenant), "EVF01")


async def test_the_next_transaction_looks_again(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    async with writer.transaction():
        await many(world, writer)
    await moves(it)
    await refused(many(world, writer), "EVF01")


async def test_a_savepoint_that_is_rolled_back_takes_lock_and_memory_along(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    await writer.execute("begin; select pg_current_xact_id(); savepoint outer_one; savepoint one")
    await many(world, writer)
    await writer.execute("release savepoint one")
    assert await writer.fetchval(PASSED) != ""
    await writer.execute("rollback to savepoint outer_one")
    await moves(it)
    await refused(many(world, writer), "EVF01")


async def test_an_error_that_is_caught_takes_lock_and_memory_along(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    await writer.execute("begin; select pg_current_xact_id()")
    await writer.execute(
        "do $$ begin insert into events (aggregate_id, tenant_id, version, event_id,"
        " aggregate_type, event_type, timestamp, payload) select gen_random_uuid(),"
        f" '{world.tenant}', 1, gen_random_uuid(), 'Note', 'world.noted', now(), '{{}}'"
        " from generate_series(1, 5); raise exception 'no'; exception when others then null;"
        " end $$"
    )
    await moves(it)
    await refused(many(world, writer), "EVF01")


async def test_a_function_with_settings_of_its_own_keeps_the_memory(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    """Its settings end with it, and a pass does not."""
    await writer.execute(
        "create function pg_temp.write(tenant uuid) returns void language sql"
        " set work_mem = '4MB' as $$ insert into public.events (aggregate_id, tenant_id,"
        " version, event_id, aggregate_type, event_type, timestamp, payload)"
        " select gen_random_uuid(), tenant, 1, gen_random_uuid(), 'Note', 'world.noted', now(),"
        " '{}' from generate_series(1, 5) $$"
    )
    async with writer.transaction():
        await writer.execute("select pg_temp.write($1)", world.tenant)
        before = await looks(writer)
        await writer.execute("select pg_temp.write($1)", world.tenant)
        assert await looks(writer) == before


async def test_the_pass_of_one_tenant_is_not_that_of_another(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    left = await guarded(world, tenant=world.other, migration=uuid4())
    await left.set_state("moved")
    async with writer.transaction():
        await many(world, writer)
        assert await writer.fetchval(PASSED) != ""
        await refused(insert(writer, world.other), "EVF01")


@pytest.mark.parametrize("whole_session", [True, False])
async def test_the_pass_of_one_transaction_is_not_that_of_another(
    world: World, it: Guarded, writer: asyncpg.Connection, whole_session: bool
) -> None:
    """Also where somebody keeps what it was."""
    async with writer.transaction():
        await many(world, writer)
        passed = await writer.fetchval(PASSED)
    await moves(it)
    async with writer.transaction():
        await writer.fetchval(
            "select set_config('eventsource.passed', $1, $2), pg_current_xact_id()",
            passed, not whole_session,
        )  # fmt: skip
        await refused(many(world, writer), "EVF01")


async def passes_of_a_way_back(world: World, it: Guarded) -> asyncpg.Connection:
    """A session that writes what the tenant, which has moved, has written since."""
    await moves(it)
    migration = uuid4()
    await standby.add_fence(
        it.table, tenant_id=world.tenant, migration_id=migration, store_id=SOURCE, role="target",
        patience_ms=int(BUDGET * 1000),
    )  # fmt: skip
    session = await world.connect()
    await session.fetchval("select set_config('eventsource.migration', $1, false)", str(migration))
    return session


CLOSE = "update eventsource_fences set state = 'retired' where state = 'standby'"


async def test_a_pass_of_a_way_back_does_not_look_for_every_row(world: World, it: Guarded) -> None:
    session = await passes_of_a_way_back(world, it)
    async with session.transaction():
        await many(world, session, 2)
        before = await looks(session)
        await many(world, session, 500)
        assert await looks(session) == before > 0
    await it.admin.execute(CLOSE)
    await refused(many(world, session), "EVF01")


async def test_who_closes_a_way_back_waits_for_a_pass_that_looks_no_more(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    session = await passes_of_a_way_back(world, it)
    await writer.execute("set lock_timeout = '50ms'")
    async with session.transaction():
        await many(world, session)
        await refused(writer.execute(CLOSE), "55P03")
        await many(world, session)
        await refused(writer.execute(CLOSE), "55P03")


async def test_a_pass_that_is_rolled_back_to_a_savepoint_looks_again(
    world: World, it: Guarded, writer: asyncpg.Connection
) -> None:
    session = await passes_of_a_way_back(world, it)
    await session.execute("begin; select pg_current_xact_id(); savepoint one")
    await many(world, session)
    await session.execute("rollback to savepoint one")
    await writer.execute(CLOSE)
    await refused(many(world, session), "EVF01")


@pytest.mark.parametrize("setting", ["", "0", "once"])
async def test_a_setting_by_hand_lets_nobody_through(
    world: World, it: Guarded, writer: asyncpg.Connection, setting: str
) -> None:
    await it.set_state("moved")
    await writer.fetchval("select set_config('eventsource.passed', $1, false)", setting)
    await refused(many(world, writer), "EVF01")


@pytest.mark.parametrize(
    ("gone", "mend"),
    [
        ("drop sequence eventsource_fence_secret", "select 1"),
        (
            "select setval('eventsource_fence_secret', 1, false)",
            "drop sequence eventsource_fence_secret",
        ),
    ],
    ids=["dropped", "set back"],
)
async def test_without_the_secret_every_row_looks(
    world: World, it: Guarded, writer: asyncpg.Connection, gone: str, mend: str
) -> None:
    await it.admin.execute(gone)
    async with writer.transaction():
        before = await looks(writer)
        await many(world, writer, 5)
        assert await looks(writer) - before == 5
    await moves(it)
    await refused(insert(writer, world.tenant), "EVF01")
    await it.admin.execute(mend)
    await world.here.source.create_schema()
    assert await secret(world, "source")


@pytest.fixture
async def keeper(world: World) -> AsyncIterator[str]:
    """A role that is no superuser, and owns what is given to it until the test is over."""
    name = "keeper_of_fences"
    await world.source.execute(f"create role {name}; grant usage on schema public to {name}")
    try:
        yield name
    finally:
        await world.source.execute(
            f"reassign owned by {name} to current_user; drop owned by {name}; drop role {name}"
        )


async def test_the_secret_belongs_to_who_reads_it(world: World, keeper: str) -> None:
    """Also where another role has brought the schema up to date."""
    await world.source.execute(
        f"alter table eventsource_fences owner to {keeper}; drop sequence eventsource_fence_secret"
    )
    await world.here.source.create_schema()
    owner = await world.source.fetchval(
        "select pg_get_userbyid(relowner) from pg_class where relname = 'eventsource_fence_secret'"
    )
    assert owner == keeper


async def test_who_may_not_read_the_secret_looks_for_every_row(
    world: World, it: Guarded, writer: asyncpg.Connection, keeper: str
) -> None:
    """And no writer fails for it."""
    await it.admin.execute(
        f"alter function eventsource_guard_write_of_events() owner to {keeper};"
        f"alter function eventsource_guard_check(int, int, text, text) owner to {keeper};"
        f"grant execute on function eventsource_guard_pass(int) to {keeper};"
        f"grant select on eventsource_fences to {keeper}"
    )
    async with writer.transaction():
        before = await looks(writer)
        await many(world, writer, 5)
        assert await looks(writer) - before == 5


async def test_no_application_reads_the_secret(world: World) -> None:
    await world.source.execute("create role reader_of_secrets")
    try:
        readable = await world.source.fetchval(
            "select has_sequence_privilege('reader_of_secrets', 'eventsource_fence_secret',"
            " 'select, usage, update')"
        )
        assert readable is False
        here, there = [await secret(world, side) for side in ("source", "target")]
        assert here != there
        assert min(here, there) > 2**30
    finally:
        await world.source.execute("drop role reader_of_secrets")
