"""How far the target lags."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.event_table import AnyTable
from eventsource.migration.tables import progress
from eventsource.migration.tables.snapshots import not_shown_by

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

#: More missing events than this are counted, not looked up one by one.
LOOKED_UP = 50_000

#: A mirror lags its append by a few milliseconds: what is missing is looked up once more.
SECOND_LOOK_SECONDS = 0.05


async def sync_lag(
    source: AnyTable,
    target: AnyTable,
    migration: Migration,
) -> int:
    """The tenant's events that the source shows now and the target does not hold yet."""
    table, tenant = source.name, migration.tenant_id
    at = await progress.read(target, migration.id)
    if at is None or (at.snapshot is None and at.proven_snapshot is None):
        return int(
            await source.connection.fetchval(
                f"select count(*) from {table} where tenant_id = $1", tenant
            )
        )
    if at.proven_snapshot is None:
        assert at.snapshot is not None
        later = await source.connection.fetchval(
            f"select count(*) from {table} where {not_shown_by(at.snapshot)}", tenant
        )
        return max(0, migration.total_events - at.rows_copied) + int(later)
    rows = await source.connection.fetch(
        f"select global_position from {table} where {not_shown_by(at.proven_snapshot)} limit $2",
        tenant, LOOKED_UP + 1,
    )  # fmt: skip
    if len(rows) > LOOKED_UP:
        return int(
            await source.connection.fetchval(
                f"select count(*) from {table} where {not_shown_by(at.proven_snapshot)}", tenant
            )
        )
    wanted = {row["global_position"] + at.position_offset for row in rows}
    missing = await _missing(target, tenant, wanted)
    if missing:
        await asyncio.sleep(SECOND_LOOK_SECONDS)
        missing = await _missing(target, tenant, missing)
    return len(missing)


async def _missing(target: AnyTable, tenant_id: UUID, positions: set[int]) -> set[int]:
    if not positions:
        return positions
    rows = await target.connection.fetch(
        f"select global_position from {target.name} where tenant_id = $1"
        " and global_position = any ($2::bigint[])",
        tenant_id, list(positions),
    )  # fmt: skip
    return positions - {row["global_position"] for row in rows}
