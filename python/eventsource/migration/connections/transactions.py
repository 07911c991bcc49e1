"""Transactions on connections that go on to be used when what runs on them is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

_OUTER = "begin", "commit", "rollback"

# The name is hidden by each further one, and seen again when that is released.
_INNER = (
    "savepoint inner_one",
    "release savepoint inner_one",
    "rollback to savepoint inner_one; release savepoint inner_one",
)


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """As ``connection.transaction()``, and none is left open whenever it is cancelled.

    asyncpg does not count a transaction as begun whose BEGIN was cancelled, although the server has
    begun it, and takes the next one for a part of it: what is written from then on would be taken
    back in the end. Within another one it is a savepoint.
    """
    is_inner, is_over = connection.is_in_transaction(), False
    begin, commit, rollback = _INNER if is_inner else _OUTER
    try:
        await connection.execute(begin)
        try:
            yield
        except BaseException:
            await connection.execute(rollback)
            is_over = True
            raise
        await connection.execute(commit)
    except BaseException:
        # An outer one is for those who began it.
        if not is_inner and not is_over and not connection.is_closed():
            await _end(connection)
        raise


async def parsed(
    connection: Connection, statement: str
) -> asyncpg.prepared_stmt.PreparedStatement[Any]:
    """As ``connection.prepare()``, and outside of a transaction no lock is left.

    asyncpg leaves the server in one, with a lock on each table of the statement, until the next
    message; a BEGIN would go on with it.
    """
    prepared = await connection.prepare(statement)
    await connection.execute("select")
    return prepared


async def _end(connection: Connection) -> None:
    """Roll back what may be open; who cannot even do that gives the connection up."""
    try:
        await connection.execute("rollback")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()
