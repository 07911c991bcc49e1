"""The statements that carry rows of a layout's tables, and those that look at them.

`COPY` takes no parameters: names are quoted as identifiers, and the tenant, keys and numbers as
literals, each by its one function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.catalog import forms
from eventsource.identifiers import quote_identifier, quote_literal
from eventsource.migration.journaled.shapes import (
    Reference,
    Shape,
    Side,
    numbering_of,
    same_values,
)

if TYPE_CHECKING:
    from eventsource.migration.layouts.declaration import LayoutTable


@dataclass(frozen=True, slots=True)
class Statements:
    """Of one migration.

    Attributes:
        offsets: by table with numbers of its own: how far they are moved.
        stamp: what columns get that each side fills for itself: one value for all carried rows,
            older than everything that is written at the target later.
    """

    shape: Shape
    offsets: Mapping[str, int]
    stamp: str

    def offset(self, table: LayoutTable, column: str) -> int | None:
        """How far the numbers of a column are moved; None for other columns."""
        numbering = numbering_of(table, column)
        if numbering is None:
            return None
        return self.offsets[numbering.like or table.name]

    def names(self, table: LayoutTable) -> list[str]:
        """The carried columns."""
        return [each.name for each in self.shape.columns(table)]

    def forms(self, table: LayoutTable) -> tuple[str, ...]:
        """How their values are made up, for the data plane."""
        return forms.of_columns(self.shape.columns(table))

    def column_list(self, table: LayoutTable) -> str:
        """The carried columns, quoted."""
        return ", ".join(map(quote_identifier, self.names(table)))

    def carried(self, table: LayoutTable) -> str:
        """What the target gets of a row of ``subject`` at the source."""
        return ", ".join(
            self._carried(table, each.name, each.shown) for each in self.shape.columns(table)
        )

    def _carried(self, table: LayoutTable, name: str, shown: str) -> str:
        column = quote_identifier(name)
        if name in table.stamps:
            return f"{quote_literal(self.stamp)}::{shown} as {column}"
        offset = self.offset(table, name)
        if offset:
            return f"(subject.{column} + {offset})::{shown} as {column}"
        return f"subject.{column}"

    def held(self, table: LayoutTable) -> str:
        """The same columns of a row of ``subject`` at the target."""
        return ", ".join(f"subject.{quote_identifier(name)}" for name in self.names(table))

    def key(self, table: LayoutTable, *, at_target: bool = False) -> str:
        """The key of a row of ``subject`` as the journal names it, from either side."""
        parts = []
        for name in table.key:
            offset = self.offset(table, name) if at_target else None
            value = f"subject.{quote_identifier(name)}"
            parts.append(f"{value} - {offset}" if offset else value)
        return f"jsonb_build_array({', '.join(parts)})"

    def in_order(self, table: LayoutTable, columns: Sequence[str], *, binary: bool) -> str:
        """``order by`` columns; ``binary`` is an order that is the same in all databases.

        Texts that the databases sort in different ways are sorted byte by byte, for which there may
        be no index.
        """
        parts = []
        for name in columns:
            value = f"subject.{quote_identifier(name)}"
            parts.append(self._sorted(table, name, value, binary=binary))
        return f"order by {', '.join(parts)}"

    def _sorted(self, table: LayoutTable, name: str, value: str, *, binary: bool = False) -> str:
        if not self.shape.is_text(table.name, name):
            return value
        if not binary and self.shape.sorts_alike(table.name, name):
            return value
        if self.shape.same_encoding:
            return f'{value}::text collate "C"'
        return f"convert_to({value}::text, 'UTF8')"

    def keys(self, table: LayoutTable, given: str, *, at_target: bool = False) -> str:
        """Keys of the journal (JSON text, quoted) as a query with columns named as the key's."""
        parts = []
        for place, name in enumerate(table.key):
            value = f"(item.value ->> {place})::{self.shape.type_of(table.name, name)}"
            offset = self.offset(table, name) if at_target else None
            parts.append(f"{value} + {offset}" if offset else value)
            parts[-1] += f" as {quote_identifier(name)}"
        return f"(select distinct {', '.join(parts)} from jsonb_array_elements({given}) item)"

    def changed_rows(self, table: LayoutTable, given: str, side: Side, what: str) -> str:
        """Rows of these keys, as they are: ``what`` of them, in an order that both sides share."""
        return (
            f"select {what} from {self._found(table, given, side)}"
            f" {self.in_order(table, table.key, binary=True)}"
        )

    def _found(self, table: LayoutTable, given: str, side: Side) -> str:
        """Keys called ``wanted`` and the tenant's rows of them called ``subject``.

        Row by row: a planner that does not know yet how many rows the tenant has would look for
        each key among all of them.
        """
        there = side is self.shape.target
        same = same_values("wanted", table.key, table.key)
        return (
            f"{self.keys(table, given, at_target=there)} wanted cross join lateral (select * from"
            f" {self.shape.rows(table, side)} subject where {same} limit 1) subject"
        )

    def delete_changed(self, table: LayoutTable, given: str) -> str:
        """Delete the tenant's rows of these keys at the target."""
        side = self.shape.target
        key = ", ".join(f"subject.{quote_identifier(name)}" for name in table.key)
        return (
            f"delete from {side.name(table.name)} subject"
            f" using (select {key} from {self._found(table, given, side)}) mine"
            f" where {same_values('mine', table.key, table.key)}"
        )

    def _is_the_tenants(self, table: LayoutTable) -> str:
        """Whether a row of the target's table, called ``subject``, is the tenant's.

        By its key: an expression's columns may be those of what stands beside it, too.
        """
        mine = self.shape.rows(table, self.shape.target)
        return f"exists (select from {mine} mine where {same_values('mine', table.key, table.key)})"

    def range_of(
        self, table: LayoutTable, scan: Sequence[str], after: Sequence[str] | None,
        upto: Sequence[str] | None, side: Side,
    ) -> str:  # fmt: skip
        """The tenant's rows after one place in the order of a scan, up to another.

        Places are values of the source as texts.
        """
        condition = self.within(table, scan, after, upto, side)
        return f"{self.shape.rows(table, side)} subject where {condition}"

    def within(
        self, table: LayoutTable, scan: Sequence[str], after: Sequence[str] | None,
        upto: Sequence[str] | None, side: Side,
    ) -> str:  # fmt: skip
        """Whether a row of ``subject`` lies between the two places."""
        condition = ["true"]
        for values, sign in ((after, ">"), (upto, "<=")):
            if values is not None:
                columns = ", ".join(
                    self._sorted(table, name, f"subject.{quote_identifier(name)}") for name in scan
                )
                bounds = ", ".join(
                    self._bound(table, name, value, side)
                    for name, value in zip(scan, values, strict=True)
                )
                condition.append(f"({columns}) {sign} ({bounds})")
        return " and ".join(condition)

    def _bound(self, table: LayoutTable, name: str, value: str, side: Side) -> str:
        bound = f"{quote_literal(value)}::{self.shape.type_of(table.name, name)}"
        bound = self._sorted(table, name, bound)
        offset = self.offset(table, name) if side is self.shape.target else None
        return f"{bound} + {offset}" if offset else bound

    def insert_staged(self, table: LayoutTable, staged: str) -> str:
        """Insert what was staged and can be: a later pass has the rest.

        A row whose key or unique value is taken, and one whose parent is not there yet.
        """
        others = [each for each in self.shape.parents_of(table) if each[0] != table.name]
        names, into = self.column_list(table), self.shape.target.name(table.name)
        insert = f"insert into {into} ({names}) overriding system value select {names} from"
        if self.shape.is_unique_late(table):
            return _row_by_row(insert, staged)
        there = self._has_parents(others)
        return f"{insert} {staged} subject where {there} on conflict do nothing"

    def _has_parents(self, references: Sequence[Reference]) -> str:
        """Whether the target has all that a row of ``subject`` refers to by these."""
        there = ["true"]
        for parent, columns, referenced in references:
            nulls = " or ".join(f"subject.{quote_identifier(each)} is null" for each in columns)
            same = same_values("parent", referenced, columns)
            name = self.shape.target.name(parent)
            there.append(f"({nulls} or exists (select from {name} parent where {same}))")
        return " and ".join(there)

    def left_out(self, table: LayoutTable, staged: str) -> str:
        """Keys of what was staged and the target does not hold as a row of the tenant."""
        key = self.key(table, at_target=True)
        there = self._is_the_tenants(table)
        return f"select {key}::text as key from {staged} subject where not {there}"

    def take_orphans(self, table: LayoutTable, staged: str) -> str:
        """Take from what was staged the rows that refer to what the target lacks; gives their keys.

        Also to one of their own table that is staged beside them: that one may be taken, too.
        """
        there = self._has_parents(self.shape.parents_of(table))
        key = self.key(table, at_target=True)
        return f"delete from {staged} subject where not ({there}) returning {key}::text as key"

    def take_referred(self, table: LayoutTable, given: str, staged: str) -> str:
        """Stage the tenant's rows of these keys that were not staged, and that others refer to;
        gives their keys."""
        names = self.column_list(table)
        used = ["false"]
        for child in self.shape.layout.tables:
            for parent, columns, referenced in self.shape.parents_of(child):
                if parent == table.name:
                    name = self.shape.target.name(child.name)
                    same = same_values("child", columns, referenced)
                    used.append(f"exists (select from {name} child where {same})")
        same = same_values("kept", table.key, table.key)
        return (
            f"insert into {staged} as subject ({names}) select {names} from (select subject.* from"
            f" {self._found(table, given, self.shape.target)}) subject where ({' or '.join(used)})"
            f" and not exists (select from {staged} kept where {same})"
            f" returning {self.key(table, at_target=True)}::text as key"
        )

    def upsert_staged(self, table: LayoutTable, staged: str) -> str:
        """Insert what was staged over the tenant's own rows of the same keys."""
        names = self.names(table)
        others = [name for name in names if name not in table.key]
        key = ", ".join(map(quote_identifier, table.key))
        changed = ", ".join(
            f"{quote_identifier(name)} = excluded.{quote_identifier(name)}" for name in others
        )
        what = f"update set {changed}" if others else "nothing"
        condition = ""
        if others:
            condition = f" where {self._is_the_tenants(table)}"
        columns = self.column_list(table)
        return (
            f"insert into {self.shape.target.name(table.name)} as subject ({columns})"
            f" overriding system value select {columns} from {staged}"
            f" on conflict ({key}) do {what}{condition}"
        )

    def delete_gone(self, table: LayoutTable, given: str, staged: str) -> str:
        """Delete the tenant's rows of these keys that were not staged: the source has none."""
        same = same_values("kept", table.key, table.key)
        return (
            self.delete_changed(table, given)
            + f" and not exists (select from {staged} kept where {same})"
        )


def _row_by_row(insert: str, staged: str) -> str:
    """ON CONFLICT does not know constraints that may be checked late. What cannot be inserted goes
    from ``staged``."""
    # The variable has a name that no column of somebody's table has.
    body = (
        "#variable_conflict use_column\ndeclare eventsource_at_ tid; begin"
        f" for eventsource_at_ in select ctid from {staged} loop begin"
        f" {insert} {staged} subject where subject.ctid = eventsource_at_;"
        " exception when unique_violation or exclusion_violation or foreign_key_violation then"
        f" delete from {staged} subject where subject.ctid = eventsource_at_;"
        " end; end loop; end"
    )
    return f"do {quote_literal(body)}"
