"""The rows of a tenant on one side, by position or by event, each with a digest of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsource.migration.consistency import by_event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventsource.migration.event_table import AnyTable
    from eventsource.tenant_ids import TenantId

#: Rows that are compared at once.
PORTION = 10_000

#: What a snapshot (parameter {0}) shows; without one everything.
SHOWN = (
    " and ({0}::text is null or transaction_id is null"
    " or pg_visible_in_snapshot(transaction_id, {0}::text::pg_snapshot))"
)


async def portion(
    table: AnyTable,
    columns: Sequence[str],
    tenant_id: TenantId,
    above: int,
    up_to: int | None,
    snapshot: str | None = None,
) -> list[Any]:
    """The tenant's next rows by position, each with a digest of its columns."""
    return await by_event.read(
        table,
        columns,
        "tenant_id = $1 and global_position > $2 and global_position <= coalesce($3::bigint,"
        f" {2**63 - 1}){SHOWN.format('$4')} order by global_position limit {PORTION}",
        tenant_id, above, up_to, snapshot,
    )  # fmt: skip


async def of_events(
    table: AnyTable, columns: Sequence[str], event_ids: Sequence[UUID], snapshot: str | None
) -> list[Any]:
    """The rows of these events, in the same form."""
    return await by_event.read(
        table,
        columns,
        f"event_id = any ($1::uuid[]){SHOWN.format('$2')}",
        list(event_ids), snapshot,
    )  # fmt: skip


async def oldest(table: AnyTable, event_ids: Sequence[UUID]) -> tuple[int | None, bool]:
    """The lowest transaction id of these events, and whether one is older than all of them."""
    row = await table.connection.fetchrow(
        "select min(transaction_id::text::numeric) as lowest,"
        f" coalesce(bool_or(transaction_id is null), false) as undated from {table.name}"
        " where event_id = any ($1::uuid[])",
        list(event_ids),
    )
    return (int(row["lowest"]) if row["lowest"] is not None else None), row["undated"]
