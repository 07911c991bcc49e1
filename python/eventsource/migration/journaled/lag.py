"""How far the target lags, where changes are written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.event_table import expected_rows
from eventsource.migration.journaled import changes, shapes
from eventsource.migration.tables import fences, progress

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration

#: Changes up to which all are counted.
LARGE = 200_000


async def of(source: AnyTable, target: AnyTable, migration: Migration) -> int:
    """How many rows the target does not hold yet as the source has them now, as far as counted."""
    at = await progress.read(target, migration.id)
    fence = await fences.of_migration(source, migration.id, "source")
    if at is None or fence is None:
        return migration.total_events
    # What is larger than that is large: nobody waits until all of it is counted.
    most = max(LARGE, migration.config.sync_lag_threshold + 1)
    since = at.snapshot if at.proven_snapshot is None else at.proven_snapshot
    waiting = await changes.count(source.connection, source, fence.fence_id, since, most)
    if at.proven_snapshot is None or await changes.overflowed(
        source.connection, source, fence.fence_id
    ):
        return max(0, await _total(source, migration) - at.rows_copied) + waiting
    return waiting


async def _total(source: AnyTable, migration: Migration) -> int:
    """How many rows the tenant has; while nobody knows, as many as the server expects.

    Of a tenant that is an expression or known by other rows it can only expect too few, so there it
    is asked for all tenants.
    """
    if migration.is_counted:
        return migration.total_events
    assert source.layout is not None
    shape = await shapes.of_one(source, source.layout, migration.tenant_id)
    total = 0
    for table in source.layout.tables:
        query = f"select from {shape.source.name(table.name)} subject"
        if table.tenancy.column is not None:
            query += f" where {shape.by_column(table)}"
        total += await expected_rows(source.connection, query)
    return total
