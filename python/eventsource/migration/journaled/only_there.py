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
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.tenant_ids import TenantId


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its table, its key there as JSON, and what it is known by besides."""

    table: str
    key: str
    known_by: str

    def __str__(self) -> str:
        return f"{self.table} {self.key}"


async def rows(
    here: AnyTable, there: AnyTable, tenant_id: TenantId, agreed: Carriage | None
) -> AsyncIterator[Row]:
    """The tenant's rows that only ``here`` has, from where it was carried to ``there``.

    Args:
        agreed: of the migration; None where nobody knows it any more: then no number was moved.
    """
    layout = here.layout
    assert layout is not None
    shape = await shape_of(here, there, layout, tenant_id)
    offsets = agreed.offsets if agreed is not None else unmoved(layout.tables)
    stamp = agreed.stamp if agreed is not None else "0"
    looking = _Looking(here, there, Statements(shape, offsets, stamp, shape.same_order))
    for table in layout.tables:
        async for row in looking.through(table):
            yield row


@dataclass(frozen=True, slots=True)
class _Looking:
    here: AnyTable
    there: AnyTable
    statements: Statements

    async def through(self, table: LayoutTable) -> AsyncIterator[Row]:
        """Range by range in the order of the key."""
        after: tuple[str, ...] | None = None
        while True:
            found, upto = await self._next(table, after)
            held = await self._held(table, after, upto)
            missing = [row for row in found if held.get(row.key) != row.known_by]
            elsewhere = await self._elsewhere(table, missing)
            for row in missing:
                if row.known_by not in elsewhere:
                    yield row
            if upto is None:
                return
            after = upto

    async def _next(
        self, table: LayoutTable, after: tuple[str, ...] | None
    ) -> tuple[list[Row], tuple[str, ...] | None]:
        """The rows of a range, and where it ends; None at the end of the table."""
        statements = self.statements
        wanted = statements.range_of(table, table.key, after, None, statements.shape.source)
        place = ", ".join(f"subject.{quote_identifier(each)}::text" for each in table.key)
        known_by = self._known_by(table, statements.carried(table))
        found: list[Any] = await self.here.connection.fetch(
            f"select {statements.key(table)}::text as key, {known_by} as known_by,"
            f" array[{place}] as place from {wanted}"
            f" {statements.in_order(table, table.key, binary=False)} limit {RANGE_ROWS}",
            timeout=LONG_STATEMENT_SECONDS,
        )
        upto = tuple(found[-1]["place"]) if len(found) == RANGE_ROWS else None
        return [Row(table.name, row["key"], row["known_by"]) for row in found], upto

    async def _held(
        self, table: LayoutTable, after: tuple[str, ...] | None, upto: tuple[str, ...] | None
    ) -> dict[str, str]:
        statements = self.statements
        wanted = statements.range_of(table, table.key, after, upto, statements.shape.target)
        known_by = self._known_by(table, statements.held(table))
        found: list[Any] = await self.there.connection.fetch(
            f"select {statements.key(table, at_target=True)}::text as key,"
            f" {known_by} as known_by from {wanted}",
            timeout=LONG_STATEMENT_SECONDS,
        )
        return {row["key"]: row["known_by"] for row in found}

    def _known_by(self, table: LayoutTable, row: str) -> str:
        """An expression of a row of ``subject``; ``row`` are its columns as the target has them."""
        if (event_id := self._event_id(table)) is not None:
            return f"subject.{quote_identifier(event_id)}::text"
        if any(numbering_of(table, name) is not None for name in table.key):
            return f"(select md5(mine::text) from (select {row}) mine)"
        return "''"

    def _event_id(self, table: LayoutTable) -> str | None:
        layout = self.statements.shape.layout
        return layout.event_id if table is layout.main else None

    async def _elsewhere(self, table: LayoutTable, missing: list[Row]) -> set[str]:
        """The ids of those events that are there under another key."""
        event_id, shape = self._event_id(table), self.statements.shape
        if event_id is None or not missing:
            return set()
        column = f"mine.{quote_identifier(event_id)}"
        found: list[Any] = await self.there.connection.fetch(
            f"select {column}::text as id from {shape.rows(table, shape.target)} mine"
            f" where {column} = any ($1::text[]::{shape.type_of(table.name, event_id)}[])",
            [row.known_by for row in missing], timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        return {row["id"] for row in found}
