"""Leaves that come while a tenant moves: a partition of the next month, that of a new tenant.

What is written into one after it was attached goes through the guard, which every leaf gets from
its root. What was in it before is not in the journal: its keys are put there, and the next pass
carries them. So a large copy does not begin again whenever an application adds a leaf.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.connections import timeouts
from eventsource.migration.journaled import carriage, partitions, watching
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.tables import fences

if TYPE_CHECKING:
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.journaled.underway import Underway
    from eventsource.migration.layouts.declaration import LayoutTable


async def cover(source: OwnTable, migration_id: UUID) -> None:
    """Leaves that came after the guard get what no trigger of their root sees to."""
    lacking = set(await partitions.uncovered(source))
    if not lacking:
        return
    assert source.layout is not None
    fence = await fences.of_migration(source, migration_id, "source")
    assert fence is not None
    guarded = Guarded(source, source.layout)

    async def renew(table: LayoutTable) -> None:
        if table.name in lacking:
            await guarded.renew(table)

    await guarded.each(renew, fence)


async def adopt(passes: Underway) -> bool:
    """Write the tenant's rows of new leaves down; False when more than leaves has come.

    A leaf that was emptied or rewritten before it was covered may have lost rows that were carried.
    """
    source, agreed = passes.connections.source, passes.agreed
    await cover(source, passes.migration.id)
    now = await watching.look(source, agreed.tables)
    if not now.has_only_grown(agreed.watched, agreed.tables):
        return False
    leaves = await partitions.leaves(source, set(now.tables) - set(agreed.tables))
    if len(leaves) > len(now.added):
        return False
    for name, table in leaves:
        await _write_down(passes, name, table)
    # Before the target says that they are known: a crash of the source could take them back.
    await passes.barrier()
    passes.agreed = replace(agreed, watched=now.text, tables=now.tables)
    target = passes.connections.target
    await carriage.store(
        target.connection, target, passes.migration.id, passes.owner, passes.agreed
    )
    return True


async def _write_down(passes: Underway, leaf: str, table: LayoutTable) -> None:
    source, shape = passes.connections.source, passes.transfer.statements.shape
    rows = shape.rows(table, shape.source).replace(shape.source.name(table.name), leaf, 1)
    key = passes.transfer.statements.key(table)
    await source.connection.execute(
        f"insert into {source.beside('eventsource_changes')} (fence_id, table_no, key)"
        f" select $1, $2, {key} from {rows} subject",
        passes.fence_id, shape.layout.number_of(table.name),
        timeout=timeouts.LONG_STATEMENT_SECONDS,
    )  # fmt: skip
