"""Events that only the target has, because the source has lost them.

What a pass has carried is proven by its barrier. A mirror has none: it copies what is committed,
and a source that crashes, fails over or is restored may not have it afterwards. So when the source
was started again, everything of the tenant at the target is looked for at the source, by event id.
Nothing is decided over such events, and an abort keeps them in a table of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.counts import counted
from eventsource.migration.consistency.only_in import PORTION, only_in
from eventsource.migration.errors import StoreGoneBackError
from eventsource.migration.tables import progress, snapshots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.tables.progress import CopyProgress

#: Lost events that are named in a message.
NAMED = 5

RESCUED = "eventsource_rescued_events"


async def look_after_a_restart(source: AnyTable, target: AnyTable, at: CopyProgress) -> None:
    """If the source was started since this was last asked, nothing at the target is missing there.

    Raises:
        StoreGoneBackError: naming how many events are missing, and the first of them.
    """
    now = await snapshots.source_of(source.connection)
    if at.source_started == now.started:
        return
    if at.source_started is not None:
        lost = [event async for event in _lost(source, target, at)]
        if lost:
            named = ", ".join(str(event) for event in lost[:NAMED])
            named += ", …" if len(lost) > NAMED else ""
            raise StoreGoneBackError(
                f"the source {source.address.table!r} was restored, crashed or failed over, and"
                f" lacks {counted(len(lost), 'event')} of tenant {at.tenant_id} that the target"
                f" holds ({named}). Nothing was changed, and the migration waits: restore a"
                " later state of the source, or go on from what it holds"
                " (`eventsource-migrate repair`), which"
                f" keeps the others at the target in the table {RESCUED}, as an abort does"
            )
    await progress.record_source(target, at, now)


async def has_lost(source: AnyTable, target: AnyTable, at: CopyProgress) -> bool:
    """Whether the source was started since this was last asked, and lacks what the target holds."""
    now = await snapshots.source_of(source.connection)
    if at.source_started in (None, now.started):
        return False
    async for _ in _lost(source, target, at):
        return True
    return False


async def keep_lost(source: AnyTable, target: AnyTable, at: CopyProgress) -> int:
    """Copy what only the target has into a table that no migration deletes from; how many."""
    lost = [event async for event in _lost(source, target, at)]
    await keep(target, at.migration_id, lost)
    return len(lost)


async def keep(target: AnyTable, migration_id: UUID, events: Sequence[UUID]) -> None:
    """Copy these events of the target into that table; those that are there already stay."""
    for first in range(0, len(events), PORTION):
        await target.connection.execute(
            f"insert into {target.beside(RESCUED)} (event_id, migration_id, tenant_id, event)"
            " select e.event_id, $2, e.tenant_id, to_jsonb(e)"
            f" from {target.name} e where e.event_id = any ($1::uuid[])"
            " on conflict do nothing",
            list(events[first : first + PORTION]), migration_id,
        )  # fmt: skip


async def _lost(source: AnyTable, target: AnyTable, at: CopyProgress) -> AsyncIterator[UUID]:
    last = at.last_target_position
    async for row in only_in(target, source, at.tenant_id, at.position_offset, last):
        yield row["event_id"]
