"""How far the target lags, where changes are written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.journaled import changes
from eventsource.migration.tables import fences, progress

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration


async def of(source: AnyTable, target: AnyTable, migration: Migration) -> int:
    """How many rows the target does not hold yet as the source has them now."""
    at = await progress.read(target, migration.id)
    fence = await fences.of_migration(source, migration.id, "source")
    if at is None or fence is None:
        return migration.total_events
    if at.proven_snapshot is None:
        waiting = await changes.count(source.connection, source, fence.fence_id, at.snapshot)
        return max(0, migration.total_events - at.rows_copied) + waiting
    return await changes.count(source.connection, source, fence.fence_id, at.proven_snapshot)
