"""A transaction that reads a table and then writes to it, as the appends of most libraries do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from tests.support.waiting import until

_WAITED_FOR = """
select exists (select from pg_locks where relation = $1::text::regclass and not granted
               and mode = 'AccessExclusiveLock')
"""


@asynccontextmanager
async def reads_then_writes(
    dsn: str, table: str, write: Callable[[asyncpg.Connection], Awaitable[object]]
) -> AsyncIterator[None]:
    """Beside the body: reads before it begins, and writes once somebody waits for all readers.

    Fails where the write does, and where nobody has waited.
    """
    writer = await asyncpg.connect(dsn)
    observer = await asyncpg.connect(dsn)

    async def work() -> None:
        # An attempt waits for a tenth of a second, and comes again.
        await until(lambda: observer.fetchval(_WAITED_FOR, table), "somebody who waits")
        await write(writer)
        await transaction.commit()

    try:
        transaction = writer.transaction()
        await transaction.start()
        await writer.fetch(f"select count(*) from {table}")
        writing = asyncio.create_task(work())
        yield
        await writing
    finally:
        await writer.close()
        await observer.close()
