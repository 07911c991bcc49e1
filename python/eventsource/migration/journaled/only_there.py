"""Rows of a tenant that only one of two stores has, by table and key.

A number that a sequence gave may have been given again by a store that has gone back: the row of
that number is another one. So an event is known by its id, and a row without one, whose key has
such a number, by all that is in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource.identifiers import quote_identifier
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.journaled.comparison import RANGE_ROWS, unmoved
from eventsource.migration.journaled.shapes import numbering_of
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.journaled.statements import Statements

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.carriage import Carriage
    from eventsource.migration.journaled.shapes import Shape, Side
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.tenant_ids import TenantId


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its table, its key as JSON, and what it is known by besides.

    The key has the numbers of the source. ``event_id`` is that of an event, where it has one.
    """

    table: str
    key: str
    known_by: str
    event_id: str | None = None

    def __str__(self) -> str:
        return f"{self.table} {self.key}"


async def rows(
    here: AnyTable, there: AnyTable, tenant_id: TenantId, agreed: Carriage | None
) -> AsyncIterator[Row]:
    """The tenant's rows that only ``here`` has, from where it was carried to ``there``.

    Args:
        agreed: of the migration; None where nobody knows it any more: then no number was moved.
    """
    statements = await statements_of(here, there, tenant_id, agreed)
    looking = _Looking(_End(here, statements), _End(there, statements, at_target=True))
    async for row in looking.through_all():
        yield row


async def rows_of_target(
    target: AnyTable, source: AnyTable, statements: Statements
) -> AsyncIterator[Row]:
    """The tenant's rows that only the target has, of those that were carried there.

    A row of which the source has another version counts, too: what the target has may be a later
    one that the source has lost. An event does not: it is known by its id.
    """
    looking = _Looking(
        _End(target, statements, at_target=True), _End(source, statements), as_they_are=True
    )
    async for row in looking.through_all():
        yield row


async def statements_of(
    source: AnyTable, target: AnyTable, tenant_id: TenantId, agreed: Carriage | None
) -> Statements:
    """How rows of a tenant are asked for at both, as its migration has carried them."""
    layout = source.layout
    assert layout is not None
    shape = await shape_of(source, target, layout, tenant_id)
    offsets = agreed.offsets if agreed is not None else unmoved(layout.tables)
    stamp = agreed.stamp if agreed is not None else "0"
    return Statements(shape, offsets, stamp)


@dataclass(frozen=True, slots=True)
class _End:
    """One of the two stores, and how its rows are asked for."""

    table: AnyTable
    statements: Statements
    at_target: bool = False

    @property
    def shape(self) -> Shape:
        return self.statements.shape

    @property
    def side(self) -> Side:
        return self.shape.target if self.at_target else self.shape.source

    def key(self, table: LayoutTable) -> str:
        return self.statements.key(table, at_target=self.at_target)

    def row(self, table: LayoutTable) -> str:
        """The columns of a row of ``subject`` as the target has them."""
        if self.at_target:
            return self.statements.held(table)
        return self.statements.carried(table)

    def place(self, table: LayoutTable) -> str:
        """The key of a row of ``subject`` as texts, with the numbers of the source."""
        parts = []
        for name in table.key:
            offset = self.statements.offset(table, name) if self.at_target else None
            value = f"subject.{quote_identifier(name)}"
            parts.append(f"({value} - {offset})::text" if offset else f"{value}::text")
        return ", ".join(parts)

    def range_of(
        self, table: LayoutTable, after: tuple[str, ...] | None, upto: tuple[str, ...] | None
    ) -> str:
        return self.statements.range_of(table, table.key, after, upto, self.side)


@dataclass(frozen=True, slots=True)
class _Looking:
    here: _End
    there: _End
    as_they_are: bool = False

    async def through_all(self) -> AsyncIterator[Row]:
        for table in self.here.shape.layout.tables:
            async for row in self._through(table):
                yield row

    async def _through(self, table: LayoutTable) -> AsyncIterator[Row]:
        """Range by range in the order of the key."""
        after: tuple[str, ...] | None = None
        while True:
            found, upto = await self._next(table, after)
            held = await self._held(table, after, upto)
            missing = [row for row in found if held.get(row.key) != row.known_by]
            elsewhere = await self._elsewhere(table, missing)
            for row in missing:
                if row.event_id is None or row.event_id not in elsewhere:
                    yield row
            if upto is None:
                return
            after = upto

    async def _next(
        self, table: LayoutTable, after: tuple[str, ...] | None
    ) -> tuple[list[Row], tuple[str, ...] | None]:
        """The rows of a range, and where it ends; None at the end of the table."""
        end, known_by = self.here, self._known_by(table, self.here)
        order = end.statements.in_order(table, table.key, binary=False)
        found: list[Any] = await end.table.connection.fetch(
            f"select {end.key(table)}::text as key, {known_by} as known_by,"
            f" array[{end.place(table)}] as place from {end.range_of(table, after, None)}"
            f" {order} limit {RANGE_ROWS}",
            timeout=LONG_STATEMENT_SECONDS,
        )
        upto = tuple(found[-1]["place"]) if len(found) == RANGE_ROWS else None
        is_event = self._event_id(table) is not None
        return [
            Row(table.name, row["key"], row["known_by"], row["known_by"] if is_event else None)
            for row in found
        ], upto

    async def _held(
        self, table: LayoutTable, after: tuple[str, ...] | None, upto: tuple[str, ...] | None
    ) -> dict[str, str]:
        end, known_by = self.there, self._known_by(table, self.there)
        found: list[Any] = await end.table.connection.fetch(
            f"select {end.key(table)}::text as key,"
            f" {known_by} as known_by from {end.range_of(table, after, upto)}",
            timeout=LONG_STATEMENT_SECONDS,
        )
        return {row["key"]: row["known_by"] for row in found}

    def _known_by(self, table: LayoutTable, end: _End) -> str:
        """An expression of a row of ``subject``, the same for the same row of both."""
        if (event_id := self._event_id(table)) is not None:
            return f"subject.{quote_identifier(event_id)}::text"
        if self.as_they_are or any(numbering_of(table, name) is not None for name in table.key):
            row = end.row(table)
            return f"(select md5(mine::text) from (select {row}) mine)"
        return "''"

    def _event_id(self, table: LayoutTable) -> str | None:
        layout = self.here.shape.layout
        return layout.event_id if table is layout.main else None

    async def _elsewhere(self, table: LayoutTable, missing: list[Row]) -> set[str]:
        """The ids of those events that are there under another key."""
        event_id, end = self._event_id(table), self.there
        if event_id is None or not missing:
            return set()
        column = f"mine.{quote_identifier(event_id)}"
        found: list[Any] = await end.table.connection.fetch(
            f"select {column}::text as id from {end.shape.rows(table, end.side)} mine"
            f" where {column} = any ($1::text[]::{end.shape.type_of(table.name, event_id)}[])",
            [row.known_by for row in missing], timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        return {row["id"] for row in found}
