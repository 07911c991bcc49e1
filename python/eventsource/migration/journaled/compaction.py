"""Rows of the journal that say the same: of a key that changes again and again, the newer stay.

A row of streams changes with every append. While a first pass of hours reads, its key is written
down each time, and a journal of those alone would come to its limit: everything would be carried
again, and once more. With this its size goes by the number of different keys.

Which of two rows of a key may go is not a matter of their transaction ids: a transaction that
began earlier may have changed the row later, and a pass that asks for what a snapshot did not show
may ask for that row alone. So a row goes only if a snapshot that was taken here showed it, and
another one of its key comes from a transaction that began after that snapshot. Any pass that asks
for the first one then asks for the second one too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.migration.connections import timeouts
from eventsource.migration.journaled import changes

if TYPE_CHECKING:
    from eventsource.migration.event_table import OwnTable

#: Rows that have to come before it is worth reading the journal for it, unless its limit is near.
AT_LEAST = 20_000


@dataclass(slots=True)
class Compaction:
    """What this driver has seen of a journal.

    Attributes:
        snapshot: an earlier one of the source, as text.
        kept: how many rows there were then.
    """

    snapshot: str | None = None
    kept: int = 0

    async def when_due(self, source: OwnTable, fence_id: int, most_bytes: int) -> None:
        """Between two chunks: delete what is said twice, once the journal has doubled since."""
        rows = await changes.counted(source, fence_id)
        if self.snapshot is not None:
            quarter = most_bytes // changes.BYTES_OF_A_KEY // 4
            if rows < self.kept + min(max(self.kept, AT_LEAST), quarter):
                return
            await _delete_older(source, fence_id, self.snapshot)
            rows = await changes.count_again(source, fence_id)
        self.snapshot = await source.connection.fetchval("select pg_current_snapshot()::text")
        self.kept = rows


async def _delete_older(source: OwnTable, fence_id: int, snapshot: str) -> None:
    journal = source.beside("eventsource_changes")
    following = int(snapshot.split(":")[1])
    await source.connection.execute(
        f"delete from {journal} older using (select distinct table_no, key from {journal}"
        f" where fence_id = {fence_id} and xid >= '{following}'::xid8 and table_no >= 0) newer"
        f" where older.fence_id = {fence_id} and older.table_no = newer.table_no"
        f" and older.key = newer.key and {changes.shown(snapshot, 'older.xid')}",
        timeout=timeouts.LONG_STATEMENT_SECONDS,
    )
