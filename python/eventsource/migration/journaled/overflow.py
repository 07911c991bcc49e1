"""A journal that has become too large: nothing more is written down, and all is carried again.

While a migration is paused, or its target does not answer, every change of the tenant's rows leaves
a key beside them. Without a limit they fill the disk of a database that others need.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.journaled import changes
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.tables import brief_locks, fences

if TYPE_CHECKING:
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.journaled.underway import Underway

_log = logging.getLogger("eventsource.migration.driver")


async def happened(passes: Underway) -> bool:
    """Whether changes may be missing in the journal; said where others read it."""
    source = passes.connections.source
    if not await changes.overflowed(source.connection, source, passes.fence_id):
        return False
    most = passes.migration.config.journal_max_bytes
    _log.warning(
        "migration %s: more was changed at the source than journal_max_bytes (%s) has room for; "
        "everything is carried again",
        passes.migration.id, f"{most:,}", extra={"migration_id": passes.migration.id},
    )  # fmt: skip
    await passes.connections.migrations.audit(
        passes.migration.id, "journal:overflowed", {"journal_max_bytes": most}
    )
    return True


async def end(source: OwnTable, migration_id: UUID) -> None:
    """Write down again what changes; returns when every change that is not can be read.

    To make the guard again waits for all transactions that have written to a table.
    """
    fence = await fences.of_migration(source, migration_id, "source")
    if fence is None or not await changes.overflowed(source.connection, source, fence.fence_id):
        return
    # A writer with an old snapshot that has looked at the fence keeps its row.
    await brief_locks.transact(
        source.connection, lambda: changes.empty(source, fence.fence_id),
        what=f"for a lock on the fence of tenant {fence.tenant_id}",
    )  # fmt: skip
    assert source.layout is not None
    guarded = Guarded(source, source.layout)
    await guarded.each(guarded.renew, fence)
