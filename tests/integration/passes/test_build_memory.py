"""A build of an index takes what the server allows, and never little; nothing stays of it."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import pytest

from eventsource.migration.tables import deferred_indexes
from eventsource.migration.tables.deferred_indexes import Index

_NOTED = """
create table builds (memory text);
create table loaded (id integer);
create function note() returns event_trigger language plpgsql as
    $$ begin insert into builds values (current_setting('maintenance_work_mem')); end $$;
create event trigger builds on ddl_command_end when tag in ('CREATE INDEX')
    execute function note();
"""


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [("64MB", "256MB"), ("1MB", "256MB"), ("256MB", "256MB"), ("300000kB", "300000kB"),
     ("3GB", "3GB")],
)  # fmt: skip
async def test_a_build_takes_what_the_server_allows_and_no_less_than_ever(
    target_dsn: str, allowed: str, taken: str
) -> None:
    connection = await asyncpg.connect(target_dsn)
    try:
        await connection.execute(f"set maintenance_work_mem = '{allowed}'; {_NOTED}")
        index = Index("by_id", "create index by_id on loaded (id)", None, None)
        await deferred_indexes._build_some(connection, iter([index]))
        assert await connection.fetchval("select memory from builds") == taken
        # For the build alone.
        assert await connection.fetchval("show maintenance_work_mem") == allowed
    finally:
        await connection.execute("drop event trigger if exists builds")
        await connection.close()


async def test_a_build_that_is_cancelled_leaves_no_transaction(target_dsn: str) -> None:
    connection = await asyncpg.connect(target_dsn)
    try:
        await connection.execute("create table loaded (id integer)")
        memory = await connection.fetchval("show maintenance_work_mem")
        # During each of its statements, and after them.
        for turns in range(12):
            index = Index("by_id", "create index by_id on loaded (id)", None, None)
            building = asyncio.create_task(deferred_indexes._build_some(connection, iter([index])))
            for _ in range(turns):
                await asyncio.sleep(0)
            building.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await building
            assert not connection.is_in_transaction()
            assert await connection.fetchval("show maintenance_work_mem") == memory
            await connection.execute("drop index if exists by_id")
    finally:
        await connection.close()
