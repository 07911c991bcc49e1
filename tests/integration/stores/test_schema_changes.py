"""Many processes that start at once, and roles whose defaults would spoil what they make."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from eventsource.migration import PreflightError, create_schema
from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions.checkpoints import PostgreSQLCheckpointRepository
from tests.support.store_tables import FILL, OLD_TABLE, Pool, append, catalogue
from tests.support.worlds.three_databases import World

#: What an older version lacks, in each of the ways that a script can mend.
OLDER = {
    "nothing": "select 1",
    "a column": "alter table tenant_routing drop column migration_id",
    "an index": "drop index unique_active_migration",
    "a table": "drop table migration_position_mappings",
    "ids that are text": "alter table tenant_routing alter column tenant_id type uuid"
    " using tenant_id::uuid",
}


@pytest.mark.alone
@pytest.mark.parametrize("reads", ["tenant_routing", "tenant_migrations", "events"])
async def test_appends_of_all_tenants_go_on_while_forty_processes_start_beside_an_idle_reader(
    world: World, reads: str
) -> None:
    side = "source" if reads == "events" else "control"
    reader = await world.connect(side)
    await reader.execute(f"begin; select from {reads}")
    there = await world.process(route_ttl_seconds=0.05)
    longest, appended, stopping = 0.0, 0, False

    async def write_on() -> None:
        nonlocal longest, appended
        while not stopping:
            began = time.monotonic()
            await there.append(world.other)
            longest = max(longest, time.monotonic() - began)
            appended += 1
            await asyncio.sleep(0.01)

    async def start() -> None:
        for one in ("source", "control"):
            async with asyncpg.create_pool(world.dsns[one], min_size=0, max_size=1) as pool:
                if one == "source":
                    await PostgreSQLEventStore(pool).create_schema()
                else:
                    await create_schema(pool)

    await there.append(world.other)
    writer = asyncio.create_task(write_on())
    async with asyncio.timeout(60):
        for _ in range(4):
            await asyncio.gather(*(start() for _ in range(10)))
    stopping = True
    await writer
    await reader.execute("rollback")
    assert appended > 20
    assert longest < 1.0


@pytest.mark.parametrize("lacks", OLDER)
async def test_what_is_missing_is_made_and_the_rest_left_alone(world: World, lacks: str) -> None:
    whole = await catalogue(world.control)  # type: ignore[arg-type]
    await world.control.execute(OLDER[lacks])
    await asyncio.gather(*(create_schema(world.here.control_pool) for _ in range(6)))
    made = await catalogue(world.control)  # type: ignore[arg-type]
    assert {row[1] for row in made} == {row[1] for row in whole}


async def test_ids_that_were_uuids_become_text_in_place_and_are_returned_as_before(
    world: World,
) -> None:
    for table in ("tenant_routing", "tenant_migrations"):
        await world.control.execute(
            f"alter table {table} alter column tenant_id type uuid using tenant_id::uuid"
        )
    await world.control.execute(
        f"insert into tenant_routing (tenant_id, store_id) values ('{world.tenant}', 'b')"
    )
    await create_schema(world.here.control_pool)
    routes = PostgreSQLRoutingRepository(world.here.control_pool)
    found = await routes.get_routing(world.tenant)
    assert found is not None
    assert found.tenant_id == world.tenant
    hostile = "o'brien\n$guard$ %1$I \\"
    await routes.set_routing(hostile, "c")
    assert {each.tenant_id: each.store_id for each in await routes.get_all()} == {
        world.tenant: "b", hostile: "c",
    }  # fmt: skip


async def test_a_missing_column_is_added_in_short_attempts(world: World) -> None:
    """The reader holds its lock; nobody queues after the ALTER for longer than an attempt."""
    await world.control.execute("alter table tenant_routing drop column generation cascade")
    reader = await world.connect("control")
    await reader.execute("begin; select from tenant_routing")
    changing = asyncio.create_task(create_schema(world.here.control_pool))
    longest = 0.0
    for _ in range(20):
        began = time.monotonic()
        await world.control.fetch("select tenant_id from tenant_routing")
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.05)
    assert not changing.done()
    await reader.execute("rollback")
    await changing
    assert longest < 1.0


HURRIED = {
    "statement_timeout": "30ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "100ms",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "check_function_bodies": "off",
}


@pytest.mark.parametrize("setting", HURRIED)
@pytest.mark.parametrize("existing", [False, True])
async def test_a_roles_defaults_neither_break_nor_loop_an_upgrade(
    pool: Pool, source_dsn: str, setting: str, existing: bool
) -> None:
    if existing:
        await pool.execute(f"{OLD_TABLE}; {FILL.replace('500', '30000')}")
    settings = {setting: HURRIED[setting]}
    async with asyncpg.create_pool(
        source_dsn, min_size=1, max_size=1, server_settings=settings
    ) as hurried:
        async with asyncio.timeout(30):
            await PostgreSQLEventStore(hurried).create_schema()
            await create_schema(hurried)
            await PostgreSQLCheckpointRepository(hurried).create_schema()
        assert await hurried.fetchval("select current_setting($1)", setting) == HURRIED[setting]
    assert await append(PostgreSQLEventStore(pool)) > 0
    invalid = await pool.fetchval("select count(*) from pg_index where not indisvalid")
    assert invalid == 0


@pytest.mark.parametrize("column", ["bounds", "table_oid"])
async def test_a_column_that_fences_lack_is_noticed_and_made(world: World, column: str) -> None:
    await world.source.execute(f"alter table eventsource_fences drop column {column} cascade")
    if column == "bounds":
        with pytest.raises(PreflightError, match=r"eventsource_fences of another version; run"):
            await world.here.start(world.tenant)
    await asyncio.gather(*(world.here.source.create_schema() for _ in range(3)))
    assert await world.source.fetchval(
        "select exists (select from pg_attribute where attrelid = 'eventsource_fences'::regclass"
        " and attname = $1 and not attisdropped)",
        column,
    )
    await world.seed(5)
    await world.dual_write()
