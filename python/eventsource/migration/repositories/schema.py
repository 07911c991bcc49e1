"""Making and upgrading the four control tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.named_sql import text
from eventsource.schema_changes import make_missing

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: Advisory lock that keeps two processes from making the tables at once.
_LOCK = (1163281237, 0)


async def create_schema(pool: Executor) -> None:
    """Create the control tables, or add what an older version or the guide's SQL lacks.

    Any number of processes may do so at once and at any time: what is there is looked at and left
    alone, without a lock.
    """
    script = text("eventsource.migration.repositories.sql", "schema.sql")
    await make_missing(pool, script, _LOCK)
