"""A mapping of positions that lacks events is made again from what the target holds.

It is in the control database and the cursor of a pass in the target: a control database that was
restored has a mapping that ends earlier, and no pass comes by there again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.models import LAST_POSITION, MappedPosition
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.tables import progress, standby

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.progress import CopyProgress

#: Events that are mapped at once.
PORTION = 20_000


async def complete_if_it_lacks(
    connections: DriverConnections, migration: Migration, source_head: int
) -> None:
    """Compare the mapping with what was carried, and make it whole if they differ."""
    if not migration.maps_rows:
        return
    mapping = PostgreSQLPositionMappingRepository(connections.control)
    at = await progress.read(connections.target, migration.id)
    if at is None or await mapping.count(migration.id) == at.proven_rows + at.pass_rows:
        return
    if migration.returns is None:
        await complete(mapping, connections.target, at, source_head)
    else:
        await of_way_back(
            mapping, at, connections.source, connections.target, migration.returns, source_head
        )


async def complete(
    mapping: PostgreSQLPositionMappingRepository,
    target: AnyTable,
    at: CopyProgress,
    source_head: int,
) -> int:
    """Map every event that the target holds of a decided move; returns how many were missing.

    ``source_head`` is where the source ended: what the target has above is the application's own.
    """
    last = source_head + at.position_offset
    held = await target.connection.fetchval(
        f"select count(*) from {target.name} where tenant_id = $1 and global_position > $2"
        " and global_position <= $3",
        at.tenant_id, at.position_offset, last, timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip
    mapped = await mapping.count(at.migration_id)
    if held == mapped:
        return 0
    if mapped > held:
        # Of another history of the target: none of it is sure.
        await mapping.delete(at.migration_id)
        mapped = 0
    position = at.position_offset
    while True:
        rows = await target.connection.fetch(
            f"select global_position, event_id from {target.name} where tenant_id = $1"
            " and global_position > $2 and global_position <= $3"
            " order by global_position limit $4",
            at.tenant_id, position, last, PORTION,
        )  # fmt: skip
        if not rows:
            return int(held - mapped)
        position = rows[-1]["global_position"]
        await mapping.add(
            at.migration_id,
            [
                MappedPosition(
                    row["global_position"] - at.position_offset,
                    row["global_position"],
                    row["event_id"],
                )
                for row in rows
            ],
        )


async def of_way_back(
    mapping: PostgreSQLPositionMappingRepository,
    at: CopyProgress,
    home: AnyTable,
    old: AnyTable,
    move: UUID,
    up_to: int = LAST_POSITION,
) -> None:
    """Map by their ids the events that a way back has carried, or a return: all of them again.

    Positions at ``old`` were drawn there, so nothing follows from those at ``home``, where they
    end at ``up_to``. What the ``move`` had carried the other way is mapped by it.
    """
    position = await standby.decided_head(old, move)
    await mapping.delete(at.migration_id)
    while True:
        rows = await old.connection.fetch(
            f"select global_position, event_id from {old.name} where tenant_id = $1"
            " and global_position > $2 order by global_position limit $3",
            at.tenant_id, position, PORTION,
        )  # fmt: skip
        if not rows:
            return
        position = rows[-1]["global_position"]
        there = await home.connection.fetch(
            f"select event_id, global_position from {home.name}"
            " where event_id = any ($1::uuid[]) and global_position <= $2",
            [row["event_id"] for row in rows], up_to,
        )  # fmt: skip
        origin = {row["event_id"]: row["global_position"] for row in there}
        await mapping.add(
            at.migration_id,
            [
                MappedPosition(origin[row["event_id"]], row["global_position"], row["event_id"])
                for row in rows
                if row["event_id"] in origin
            ],
        )
