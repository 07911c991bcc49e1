"""A source of a layout that has gone back under a migration: the target follows it.

The journal of changes has gone back with the source, and cannot say what the target lacks. So what
only the target has is kept, the target is emptied, and the copy begins again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.connections.transactions import transaction
from eventsource.migration.errors import MigrationError
from eventsource.migration.journaled import carriage, first_pass, preparation, rescue
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.tables import fences, progress, reconciled, witnesses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.journaled.only_there import Row
    from eventsource.migration.models import Migration


async def reconcile(
    connections: DriverConnections, migration: Migration, owner: UUID
) -> Sequence[Row]:
    """Bring target and progress in line with the source; what only the target had.

    Only for who has the lease. Every step may be repeated: until the last one the progress row
    names the barrier that the source has lost, and no driver goes on.
    """
    source, target = connections.source, connections.target
    at = await progress.claim(target, migration.id, owner)
    agreed = await carriage.read(target, migration.id)
    if at is None or agreed is None:
        raise MigrationError("the target has no progress row of this migration: abort it")
    await fences.refuse_unless_closed(target, migration.tenant_id, migration.id)
    # A source from before the start has neither fence nor guard.
    await preparation.prepare(connections, migration, owner, lambda: True)
    lost = await rescue.keep_lost(source, target, migration, agreed)
    assert target.layout is not None
    shape = await shape_of(source, target, target.layout, migration.tenant_id)
    await first_pass.empty_target(target, shape, target.connection, migration, owner)
    agreed = replace(agreed.at(0, (), None), watched=None, tables=())
    async with transaction(target.connection):
        await carriage.store(target.connection, target, migration.id, owner, agreed)
        last = await witnesses.highest(source, migration.id)
        await reconciled.begin_copy_again(target, at, above=last)
    return lost
