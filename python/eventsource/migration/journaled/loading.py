"""Loading the empty tables of a layout without the indexes that the load does not need.

What it needs stays: the primary key and what foreign keys refer to, the key of the layout, the
index that the first pass reads along, and those by which rows are found whose parents are deleted.

Rows are read at different moments. One may give a unique value up after it was read and another one
take it before that is read: then both arrive, the index cannot be built, and everything is carried
again with the indexes in place, where the second one waits for a later pass.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg

from eventsource.migration.journaled import carriage, first_pass, shapes
from eventsource.migration.steps.bulk_copy import build_indexes
from eventsource.migration.tables import deferred_indexes, reserved_block

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.journaled.underway import Underway
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.migration.tables.fences import Fence

# An expression has no name.
_COLUMNS = """
select c.relname::text as name,
       array(select coalesce(a.attname::text, '')
             from unnest(i.indkey::int2[]) with ordinality k (num, place)
             left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
             where k.place <= i.indnkeyatts order by k.place) as columns
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = $1::text::regclass and not i.indisprimary
"""


async def worth(connections: DriverConnections, shape: Shape) -> dict[str, list[str]]:
    """The tables that are empty at the target and large at the source, and the indexes of each that
    a load needs; looked at without a lock."""
    found = {}
    for table in shape.layout.tables:
        if not await _is_empty(connections.target, table):
            continue
        few = deferred_indexes.WORTH_IT
        if await shapes.count(connections.source, shape, table, few) == few:
            found[table.name] = await _needed(connections, shape, table)
    return found


async def begin(
    target: OwnTable, migration_id: UUID, fence: Fence, tables: dict[str, list[str]]
) -> None:
    """In the transaction that holds all tables, these alone, and has written the progress row.

    Raises:
        TargetBusyError: another migration is loading them.
    """
    if await reserved_block.is_in_use(target, migration_id):
        return
    assert target.layout is not None
    empty = {
        each.name: tables[each.name]
        for each in target.layout.tables
        if each.name in tables and await _is_empty(target, each)
    }
    await deferred_indexes.defer_some(target, migration_id, fence, empty)


async def end(passes: Underway, stopped: asyncio.Event | None) -> bool | None:
    """Build the indexes; False when asked to stop on the way.

    None where a unique one cannot be: the tables are empty then, and have all of their indexes.
    """
    connections, migration = passes.connections, passes.migration
    doubled = False
    try:
        built = await build_indexes(connections, migration, stopped)
    except* asyncpg.UniqueViolationError:
        doubled = True
    if not doubled:
        return built
    # A driver that finds the tables half empty begins again: they are not what it would know.
    passes.agreed = replace(passes.agreed, watched="")
    target = connections.target
    await carriage.store(target.connection, target, migration.id, passes.owner, passes.agreed)
    await first_pass.empty(passes)
    await build_indexes(connections, migration)
    return None


async def _is_empty(target: AnyTable, table: LayoutTable) -> bool:
    return not await target.connection.fetchval(
        f"select exists (select from {target.beside(table.name)})"
    )


async def _needed(connections: DriverConnections, shape: Shape, table: LayoutTable) -> list[str]:
    """By name. Columns in another order serve as well where all of them are asked for."""
    scan = await first_pass.scan_of(connections.source, table, shape)
    wanted = [set(table.key), set(scan)]
    wanted += [set(columns) for _, columns, _ in shape.parents_of(table)]
    for child in shape.layout.tables:
        through = child.tenancy.through
        if through is not None and through.table == table.name:
            wanted.append(set(through.referenced))
    rows = await connections.target.connection.fetch(
        _COLUMNS, connections.target.beside(table.name)
    )
    return [
        row["name"]
        for row in rows
        if any(set(row["columns"][: len(columns)]) == columns for columns in wanted)
    ]
