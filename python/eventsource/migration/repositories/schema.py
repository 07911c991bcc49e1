"""Making and upgrading the four control tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.connections import transaction
from eventsource.named_sql import text

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: Advisory lock that keeps two processes from making the tables at once.
_LOCK = 1163281237


async def create_schema(pool: Executor) -> None:
    """Create the control tables, or add what an older version or the guide's SQL lacks.

    Idempotent, and safe to run from several processes at once.
    """
    async with transaction(pool) as connection:
        await connection.execute("select pg_advisory_xact_lock($1, 0)", _LOCK)
        await connection.execute(text("eventsource.migration.repositories.sql", "schema.sql"))
