"""How far the target lags."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.event_table import AnyTable, expected_rows
from eventsource.migration.models import BEFORE_EVERY_POSITION
from eventsource.migration.tables import progress
from eventsource.migration.tables.snapshots import not_shown_by
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

#: Events that are looked up at a time.
LOOKED_UP = 50_000

#: A mirror lags its append by a few milliseconds: what is missing is looked up once more.
SECOND_LOOK_SECONDS = 0.05


async def sync_lag(
    source: AnyTable,
    target: AnyTable,
    migration: Migration,
) -> int:
    """The tenant's events that the source shows now and the target does not hold yet."""
    table, tenant = source.name, as_uuid(migration.tenant_id)
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
        total = migration.total_events
        if not migration.is_counted:
            total = await expected_rows(
                source.connection, f"select from {table} where tenant_id = $1", tenant
            )
        return max(0, total - at.rows_copied) + int(later)
    if migration.returns is not None:
        # Nothing mirrors there, and positions are others.
        return int(
            await source.connection.fetchval(
                f"select count(*) from {table} where {not_shown_by(at.proven_snapshot)}", tenant
            )
        )
    return await _not_there(source, target, tenant, at.proven_snapshot, at.position_offset)


async def _not_there(
    source: AnyTable, target: AnyTable, tenant: UUID, snapshot: str, offset: int
) -> int:
    """How many events that the snapshot does not show are missing at the target.

    They are looked up in pages: most of them were mirrored, however many there are.
    """
    missing: set[int] = set()
    total, after = 0, BEFORE_EVERY_POSITION
    while True:
        rows = await source.connection.fetch(
            f"select global_position from {source.name} where {not_shown_by(snapshot)}"
            " and global_position > $2 order by global_position limit $3",
            tenant, after, LOOKED_UP,
        )  # fmt: skip
        wanted = {row["global_position"] + offset for row in rows}
        found = await _missing(target, tenant, wanted)
        total += len(found)
        missing |= found if len(missing) < LOOKED_UP else set()
        if len(rows) < LOOKED_UP:
            break
        after = rows[-1]["global_position"]
    if not missing:
        return total
    await asyncio.sleep(SECOND_LOOK_SECONDS)
    again = set(sorted(missing)[:LOOKED_UP])
    return total - len(again) + len(await _missing(target, tenant, again))


async def _missing(target: AnyTable, tenant_id: UUID, positions: set[int]) -> set[int]:
    if not positions:
        return positions
    rows = await target.connection.fetch(
        f"select global_position from {target.name} where tenant_id = $1"
        " and global_position = any ($2::bigint[])",
        tenant_id, list(positions),
    )  # fmt: skip
    return positions - {row["global_position"] for row in rows}
