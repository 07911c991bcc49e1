"""A transaction that is cancelled anywhere is over, and what comes after it is committed."""

from __future__ import annotations

import asyncpg

from eventsource.migration.connections.transactions import transaction
from tests.integration.driver.test_cancellation import comes_to_its_end, for_growing_n


async def test_what_comes_after_a_cancelled_transaction_is_committed(source_dsn: str) -> None:
    connection, other = await asyncpg.connect(source_dsn), await asyncpg.connect(source_dsn)
    await connection.execute("create table noted (n integer, inner_one boolean)")

    async def note(number: int) -> None:
        async with transaction(connection):
            await connection.execute("insert into noted values ($1, false)", number)
            async with transaction(connection):
                await connection.execute("insert into noted values ($1, true)", number)

    async def attempt(number: int) -> bool:
        ended = await comes_to_its_end(note(number), number)
        # Both or none.
        assert await other.fetchval("select count(*) from noted where n = $1", number) in (0, 2)
        await connection.execute("insert into noted values ($1, false)", -number)
        assert await other.fetchval("select count(*) from noted where n = $1", -number) == 1
        return ended

    await for_growing_n(1, attempt, at_least=6)
    for each in (connection, other):
        await each.close()


async def test_an_error_is_the_one_of_the_block_and_rolls_back(source_dsn: str) -> None:
    connection = await asyncpg.connect(source_dsn)
    await connection.execute("create table noted (n integer unique deferrable initially deferred)")
    for statement in ("select 1 / 0", "insert into noted values (1), (1)"):
        try:
            async with transaction(connection):
                await connection.execute(statement)
        except (asyncpg.DivisionByZeroError, asyncpg.UniqueViolationError):
            pass
        else:
            raise AssertionError(statement)
        assert not connection.is_in_transaction()
    assert await connection.fetchval("select count(*) from noted") == 0
    await connection.close()
