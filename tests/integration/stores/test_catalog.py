"""Reading a table's catalog leaves the session as it was, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from eventsource.catalog import reading
from tests.support.store_tables import Pool

#: Turns of the loop until it is cancelled: during each of its statements, and after them.
TURNS = range(12)

PATH = '"$user", public'


@pytest.fixture
async def connection(pool: Pool, source_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    await pool.execute("create table noted (id bigint primary key)")
    connection = await asyncpg.connect(source_dsn)
    yield connection
    await connection.close()


async def _read_and_cancel(connection: asyncpg.Connection, turns: int) -> None:
    reads = asyncio.create_task(reading.read(connection, "public.noted"))
    for _ in range(turns):
        await asyncio.sleep(0)
    reads.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reads


async def test_who_is_cancelled_while_reading_is_in_no_transaction(
    connection: asyncpg.Connection,
) -> None:
    for turns in TURNS:
        await _read_and_cancel(connection, turns)
        assert await connection.fetchval("show search_path") == PATH
        assert not connection.is_in_transaction()


async def test_a_transaction_around_it_goes_on_or_is_over_as_a_whole(
    connection: asyncpg.Connection,
) -> None:
    for turns in TURNS:
        await connection.execute(f"begin; insert into noted values ({turns})")
        await _read_and_cancel(connection, turns)
        try:
            assert await connection.fetchval("show search_path") == PATH
            await connection.execute("commit")
        except asyncpg.InFailedSQLTransactionError:
            await connection.execute("rollback")
        assert not connection.is_in_transaction()


async def test_within_a_transaction_its_settings_end_with_it(
    connection: asyncpg.Connection,
) -> None:
    async with connection.transaction():
        await connection.execute("insert into noted values (1)")
        found = await reading.read(connection, "public.noted")
        assert found is not None
        assert await connection.fetchval("show search_path") == PATH
    assert await connection.fetchval("select count(*) from noted") == 1
