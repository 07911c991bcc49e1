"""Source and target compared, table by table: every row, and every column of it.

Rows of tables that change cannot be summed up as they go. So both sides are read range by range:
the target first, then the source together with the journal, in one snapshot. What differs and is in
the journal is still to be carried; what differs and is not is a difference, unless a pass has
carried it between the two looks: then the journal has forgotten it, and it is looked at again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.catalog.forms import PLAIN
from eventsource.counts import counted
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import timeouts
from eventsource.migration.consistency.wording import what_differs
from eventsource.migration.errors import ConsistencyError, MigrationError, RetryLaterError
from eventsource.migration.journaled import carriage, changes, frames
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.journaled.statements import Statements
from eventsource.migration.journaled.transfer import copied_out
from eventsource.migration.models import (
    NAMED,
    TableDifference,
    VerificationLevel,
    VerificationReport,
)
from eventsource.migration.tables import fences, progress

if TYPE_CHECKING:
    import asyncpg

    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.tenant_ids import TenantId

#: Rows of a range.
RANGE_ROWS = 10_000

#: How often rows are looked at again while passes go on, and after which pause (seconds).
LOOKS, PAUSE_SECONDS = 20, 0.05


@dataclass(slots=True)
class _Tally:
    source: int = 0
    target: int = 0
    differing: int = 0
    changed_since: int = 0
    gone_since: int = 0
    named: list[TableDifference] = field(default_factory=list)


async def compare(
    source: OwnTable, target: OwnTable, tenant_id: TenantId, level: VerificationLevel
) -> VerificationReport:
    """Compare the tenant in both stores. The connections are used for nothing else meanwhile.

    After a move only what the source holds is looked for: what the target has beyond it, and what
    was changed there since, is the application's.

    Raises:
        MigrationError: what a tenant that has moved has left is being deleted.
        RetryLaterError: they differ, and nobody can say whether that is still to be carried.
    """
    began = time.monotonic()
    layout = source.layout
    assert layout is not None
    fence = await fences.read(source, tenant_id)
    moved = fence is not None and fence.role == "source" and fence.state == "moved"
    if moved and fence and (when := await fences.cleaned_at(source, fence.migration_id)):
        raise MigrationError(
            f"the old rows of tenant {tenant_id} were deleted from {when:%Y-%m-%d %H:%M} UTC on:"
            " there is nothing left to compare with"
        )
    at = await progress.of_tenant(target, tenant_id)
    agreed = None if at is None else await carriage.read(target, at.migration_id)
    offsets = agreed.offsets if agreed is not None else unmoved(layout.tables)
    shape = await shape_of(source, target, layout, tenant_id)
    stamp = agreed.stamp if agreed is not None else "0"
    statements = Statements(shape, offsets, stamp)
    since = at.proven_snapshot if at is not None else None
    looking = _Comparison(
        source, target, statements, since, fence.fence_id if fence and not moved else None,
        fence.migration_id if fence and moved else None,
    )  # fmt: skip
    for table in layout.tables:
        if level is VerificationLevel.COUNT:
            await looking.count(table)
        else:
            await looking.rows(table)
    tally = looking.tally
    if tally.differing and await looking.is_in_the_dark():
        raise RetryLaterError(
            "source and target cannot be compared now: not every change of the source is written"
            " down, and everything is carried again, or is still to be copied; compare again when"
            " that has come to its end"
        )
    return VerificationReport(
        is_consistent=tally.differing == 0,
        level=level,
        source_event_count=tally.source,
        target_event_count=tally.target,
        streams_verified=0,
        streams_consistent=0,
        violations=(),
        stream_results=(),
        duration_seconds=time.monotonic() - began,
        differences=tuple(tally.named),
        rows_changed_since=tally.changed_since,
        rows_gone_since=tally.gone_since,
    )


def unmoved(tables: tuple[LayoutTable, ...]) -> dict[str, int]:
    """Offsets where nobody knows of any."""
    return {each.name: 0 for each in tables if any(n.like is None for n in each.numbered)}


@dataclass(slots=True)
class _Comparison:
    source: OwnTable
    target: OwnTable
    statements: Statements
    since: str | None
    fence_id: int | None
    moved_by: UUID | None
    tally: _Tally = field(default_factory=_Tally)

    async def count(self, table: LayoutTable) -> None:
        """Only how many there are; while the tenant moves, what is in the journal may differ."""
        for _ in range(LOOKS):
            carried = await self._carried()
            here, there, waiting = await self._counts(table)
            # After the move the target has what was written there since, too.
            apart = here - there if self.moved_by is not None else abs(here - there)
            if apart <= waiting or carried == await self._carried():
                break
            await asyncio.sleep(PAUSE_SECONDS)
        self.tally.source += here
        self.tally.target += there
        if apart > waiting:
            self._note(
                table, None, None, f"{counted(here, 'row')} at the source, {there:,} at the target"
            )

    async def _counts(self, table: LayoutTable) -> tuple[int, int, int]:
        shape = self.statements.shape
        counts = []
        for side, held in ((self.target, shape.target), (self.source, shape.source)):
            counts.append(
                await side.connection.fetchval(
                    f"select count(*) from {shape.rows(table, held)} mine",
                    timeout=timeouts.LONG_STATEMENT_SECONDS,
                )
            )
        there, here = counts
        waiting = 0
        if self.fence_id is not None:
            waiting = await changes.count(
                self.source.connection, self.source, self.fence_id, self.since
            )
        return here, there, waiting

    async def _carried(self) -> tuple[object, ...]:
        """Another value whenever a pass has carried something."""
        if self.fence_id is None:
            return ()
        at = await progress.of_tenant(self.target, self.statements.shape.tenant_id)
        return () if at is None else (at.pass_number, at.rows_copied, at.proven_snapshot)

    async def is_in_the_dark(self) -> bool:
        """Whether rows may differ that nobody has written down: the journal had no room for them,
        or everything is carried again."""
        if self.fence_id is None:
            return False
        at = await progress.of_tenant(self.target, self.statements.shape.tenant_id)
        if at is not None and at.proven_snapshot is None:
            return True
        return await changes.overflowed(self.source.connection, self.source, self.fence_id)

    async def rows(self, table: LayoutTable) -> None:
        """Every row, in ranges of the key."""
        after: tuple[str, ...] | None = None
        while True:
            carried = await self._carried()
            upto = await self._place_after(table, after)
            there = await self._held(table, after, upto)
            here, waiting = await self._sent(table, after, upto)
            apart = {key for key in here.keys() | there.keys() if here.get(key) != there.get(key)}
            apart -= waiting
            if apart and self.moved_by is not None:
                changed = await self._changed_since(table, after, upto)
                # What was written there alone is in no comparison.
                self.tally.changed_since += len(apart & changed & here.keys())
                apart -= changed
                self.tally.gone_since += len(apart - here.keys())
            if apart and carried != await self._carried():
                apart = await self._apart_still(table, after, upto, apart)
            self.tally.source += len(here)
            self.tally.target += len(there)
            self._differences(table, here, there, apart)
            if upto is None:
                return
            after = upto

    async def _apart_still(
        self,
        table: LayoutTable,
        after: tuple[str, ...] | None,
        upto: tuple[str, ...] | None,
        apart: set[bytes],
    ) -> set[bytes]:
        """Those that differ when they are looked at again.

        The source first: of what it shows and the journal does not name, the target has at least
        that. It may have something newer; then the next look sees that at the source, too.
        """
        for _ in range(LOOKS):
            here, waiting = await self._sent(table, after, upto)
            there = await self._held(table, after, upto)
            apart = {key for key in apart - waiting if here.get(key) != there.get(key)}
            if not apart:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        return apart

    async def _changed_since(
        self, table: LayoutTable, after: tuple[str, ...] | None, upto: tuple[str, ...] | None
    ) -> set[bytes]:
        """Keys of rows that the application has written at the target since the tenant lives there.

        By what the migration wrote last there, which is older than those: the fence that it opened
        or, should that have been written to since, its progress row. Rows that a rewrite of the
        table has written again are as young, so what is left out is counted. Of one range, after
        that was read: of a large tenant all of them are too many to keep.
        """
        statements, shape = self.statements, self.statements.shape
        rows: list[Any] = await self.target.connection.fetch(
            f"select {statements.key(table, at_target=True)}::text as key"
            f" from {shape.target.name(table.name)} subject"
            f" where {shape.predicate(table, shape.target)}"
            f" and {statements.within(table, table.key, after, upto, shape.target)}"
            " and age(subject.xmin) < (select max(age(mine.at)) from ("
            f"select xmin as at from {self.target.fences} where migration_id = $1"
            f" and role = 'target' union all select xmin from {self.target.progress}"
            " where migration_id = $1) mine)",
            self.moved_by, timeout=timeouts.LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        return {row["key"].encode() for row in rows}

    async def _place_after(
        self, table: LayoutTable, after: tuple[str, ...] | None
    ) -> tuple[str, ...] | None:
        statements = self.statements
        wanted = statements.range_of(table, table.key, after, None, statements.shape.source)
        columns = ", ".join(f"subject.{quote_identifier(each)}::text" for each in table.key)
        order = statements.in_order(table, table.key, binary=False)
        row = await self.source.connection.fetchrow(
            f"select {columns} from {wanted} {order} limit 1 offset {RANGE_ROWS - 1}",
            timeout=timeouts.LONG_STATEMENT_SECONDS,
        )
        return None if row is None else tuple(row)

    async def _held(
        self, table: LayoutTable, after: tuple[str, ...] | None, upto: tuple[str, ...] | None
    ) -> dict[bytes, bytes]:
        statements = self.statements
        wanted = statements.range_of(table, table.key, after, upto, statements.shape.target)
        key = statements.key(table, at_target=True)
        return await self._by_key(
            self.target.connection,
            table,
            f"select {key}::text as eventsource_key, {statements.held(table)} from {wanted}",
        )

    async def _sent(
        self, table: LayoutTable, after: tuple[str, ...] | None, upto: tuple[str, ...] | None
    ) -> tuple[dict[bytes, bytes], set[bytes]]:
        statements, connection = self.statements, self.source.connection
        wanted = statements.range_of(table, table.key, after, upto, statements.shape.source)
        number = statements.shape.layout.number_of(table.name)
        waiting: set[bytes] = set()
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            key = statements.key(table)
            found = await self._by_key(
                connection,
                table,
                f"select {key}::text as eventsource_key, {statements.carried(table)} from {wanted}",
            )
            if self.fence_id is not None:
                rows: list[Any] = await connection.fetch(
                    f"select distinct key::text from {self.source.beside('eventsource_changes')}"
                    f" where fence_id = $1 and table_no = $2 and {changes.since(self.since)}",
                    self.fence_id, number,
                )  # fmt: skip
                waiting = {row["key"].encode() for row in rows}
        return found, waiting

    async def _by_key(
        self, connection: asyncpg.Connection[Any], table: LayoutTable, query: str
    ) -> dict[bytes, bytes]:
        names, forms = self.statements.names(table), self.statements.forms(table)
        columns, forms = ["eventsource_key", *names], forms and (PLAIN, *forms)
        data = (await copied_out(connection, query, columns, forms)).compared
        return {frames.fields(row)[0] or b"": row for row in frames.rows(data)}

    def _differences(
        self,
        table: LayoutTable,
        here: dict[bytes, bytes],
        there: dict[bytes, bytes],
        apart: set[bytes],
    ) -> None:
        moved = self.fence_id is None and self.since is not None
        for key in apart:
            if key not in here:
                if not moved:
                    self._note(table, key, None, "is at the target alone")
            elif key not in there:
                self._note(table, key, None, "is not at the target")
            else:
                self._note(table, key, self._column(table, here[key], there[key]), "differs")

    def _column(self, table: LayoutTable, here: bytes, there: bytes) -> str:
        names = self.statements.names(table)
        pairs = zip(names, frames.fields(here)[1:], frames.fields(there)[1:], strict=True)
        return ", ".join(name for name, one, two in pairs if one != two)

    def _note(self, table: LayoutTable, key: bytes | None, column: str | None, detail: str) -> None:
        self.tally.differing += 1
        if len(self.tally.named) < NAMED:
            named = None if key is None else key.decode()
            self.tally.named.append(TableDifference(table.name, named, column, detail))


def refuse_differences(report: VerificationReport) -> None:
    """Raise ConsistencyError when the report has one."""
    if not report.is_consistent:
        raise ConsistencyError(f"source and target differ: {what_differs(report)}", report)
