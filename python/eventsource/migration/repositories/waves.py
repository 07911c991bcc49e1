"""Stopping the waves that a migration belongs to, in the transaction that records why."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.named_sql import statements

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "waves.sql")

#: Who stopped a wave when it was nobody.
BY_ITSELF = "the first failed proof"


async def stop_for(connection: Executor, migration_id: UUID, reason: str) -> None:
    """The migration's proof has failed: its waves stop with the caller's transaction.

    Call it before the migration's row is touched: a cutover is permitted under a lock of the wave's
    row, and takes that of its migration after it.
    """
    for row in await connection.fetch(_SQL["of_migration"], migration_id):
        named = f"tenant {row['tenant_id']}: {reason}"
        await stop(connection, row["wave_id"], BY_ITSELF, named, migration_id)


async def stop(
    connection: Executor, wave_id: UUID, by: str, reason: str, cause: UUID | None = None
) -> bool:
    """Within a transaction: no tenant of the wave cuts over that has not begun to.

    False when the wave is not running.

    Args:
        cause: the migration whose request is being answered otherwise.
    """
    if not await connection.fetch(_SQL["stop"], wave_id, by, reason):
        return False
    # A statement of its own: it sees the requests that were made until the wave's row was locked.
    await connection.execute(_SQL["withdraw"], wave_id, cause)
    return True
