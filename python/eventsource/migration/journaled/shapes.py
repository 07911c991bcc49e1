"""A layout's tables as they are in both databases: what is carried, and how it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.catalog import reading, values
from eventsource.catalog.model import Column, Constraint, TableCatalog
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import qualified, quote_identifier, quote_literal
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.layouts.declaration import Layout, LayoutTable, Numbering


#: Types whose order depends on a collation, which may be another one at the target.
TEXTS = ("text", "varchar", "bpchar", "name")

#: Types whose values are in one order everywhere, but for that.
ORDERED = (*TEXTS, "uuid", "int2", "int4", "int8", "bool", "timestamptz", "timestamp", "date",
           "time", "numeric", "bytea", "inet")  # fmt: skip

#: A foreign key between two tables of the layout: the parent's name, the columns, and those of the
#: parent.
Reference = tuple[str, tuple[str, ...], tuple[str, ...]]

_BYTE_BY_BYTE = ('pg_catalog."C"', 'pg_catalog."POSIX"', "pg_catalog.ucs_basic")

# The same on both sides: then texts are in the same order there. Its columns differ by version.
_SORTING = """
select concat_ws(' ', d ->> 'datlocprovider', d ->> 'datcollate', coalesce(
           d ->> 'datlocale', d ->> 'daticulocale'),
           pg_encoding_to_char((d ->> 'encoding')::integer),
           case when d ->> 'datcollate' not in ('C', 'POSIX')
                then pg_database_collation_actual_version((d ->> 'oid')::oid) end)
from (select to_jsonb(p) from pg_database p where datname = current_database()) as found (d)
"""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two databases: where the layout's tables are, as its catalog describes them."""

    schema: str
    tables: Mapping[str, TableCatalog]
    sorting: str = ""

    def name(self, table: str) -> str:
        """Quoted and qualified; under another name where it was looked for by its guard."""
        found = self.tables.get(table)
        return qualified(self.schema, table) if found is None else found.sql


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout in both databases, for one tenant."""

    layout: Layout
    tenant_id: TenantId
    source: Side
    target: Side

    @property
    def same_order(self) -> bool:
        """Whether both databases sort texts the same way."""
        return self.source.sorting == self.target.sorting

    @property
    def tenant(self) -> str:
        """The tenant's id as a literal."""
        return quote_literal(stored(self.tenant_id))

    def columns(self, table: LayoutTable) -> list[Column]:
        """Those that are carried, in the order of the source.

        What the source generates is carried where the target has an ordinary column for it.
        """
        there = self.target.tables[table.name]
        return [
            each
            for each in self.source.tables[table.name].columns
            if not each.is_generated
            or ((other := there.column(each.name)) is not None and not other.is_generated)
        ]

    @property
    def same_encoding(self) -> bool:
        """Whether the bytes of a text are the same in both databases."""
        (here, there) = (
            {each.encoding for each in side.tables.values()} for side in (self.source, self.target)
        )
        return here == there

    def is_text(self, table: str, column: str) -> bool:
        """Whether a column's values are sorted as texts where both sides may differ.

        Labels of an enum have an order of their own in each database.
        """
        found = self.source.tables[table].column(column)
        if found is None:
            return False
        innermost = values.innermost(found.type)
        return innermost.name in TEXTS or innermost.kind == "e"

    def is_ordered(self, table: LayoutTable, column: str) -> bool:
        """Whether ranges of a column hold the same values in both databases."""
        found = self.source.tables[table.name].column(column)
        return found is not None and values.innermost(found.type).name in ORDERED

    def sorts_alike(self, table: str, column: str) -> bool:
        """Whether a column of texts has the same order in both databases.

        Of a collation that is named nobody knows whether both servers have the same version.
        """
        here = self.source.tables[table].column(column)
        there = self.target.tables[table].column(column)
        if here is None or there is None or here.type.kind in ("d", "e"):
            return False
        if here.collation != there.collation or not self.same_encoding:
            return False
        return self.same_order if here.collation is None else here.collation in _BYTE_BY_BYTE

    def type_of(self, table: str, column: str) -> str:
        """The type of a column as SQL text."""
        found = self.source.tables[table].column(column)
        assert found is not None
        return found.shown

    def rows(self, table: LayoutTable, side: Side) -> str:
        """The tenant's rows of a table, as a query in parentheses."""
        condition = self.predicate(table, side)
        if table.where is not None:
            condition += f" and ({table.where})"
        return f"(select * from {side.name(table.name)} subject where {condition})"

    def predicate(self, table: LayoutTable, side: Side) -> str:
        """Whether a row of ``subject`` is the tenant's.

        Twice: by the column's own type, for which there may be an index, and byte by byte, because
        a collation or a cast may take two ids for one.
        """
        tenancy, tenant = table.tenancy, self.tenant
        if tenancy.whole:
            return "true"
        if tenancy.through is not None:
            parent = self.layout.table(tenancy.through.table)
            same = same_values("parent", tenancy.through.referenced, tenancy.through.columns)
            return f"exists (select from {self.rows(parent, side)} parent where {same})"
        if tenancy.column is not None:
            value, native = f"subject.{quote_identifier(tenancy.column)}", self.by_column(table)
        else:
            value = f"({tenancy.expression})"
            native = f"{value} = {tenant}"
        return f'{native} and {value}::text collate "C" = {tenant}'

    def by_column(self, table: LayoutTable) -> str:
        """Whether the tenant's column of ``subject`` has its id, in the column's own type."""
        column = str(table.tenancy.column)
        type_ = self.type_of(table.name, column)
        return f"subject.{quote_identifier(column)} = {self.tenant}::{type_}"

    def parents_of(self, table: LayoutTable) -> list[Reference]:
        """Foreign keys of the target's table to tables of the layout."""
        found = []
        by_oid = {each.oid: name for name, each in self.target.tables.items()}
        for key in self.target.tables[table.name].constraints:
            if key.type == "f" and key.enforced and key.references in by_oid:
                found.append((by_oid[key.references], key.columns, key.referenced_columns))
        return found

    def outward(self, table: LayoutTable) -> list[Constraint]:
        """Foreign keys of the target's table to tables that are none of the layout."""
        ours = {each.oid for each in self.target.tables.values()}
        return [
            key
            for key in self.target.tables[table.name].constraints
            if key.type == "f" and key.enforced and key.references not in ours
        ]

    def lacks(self, table: LayoutTable) -> list[str]:
        """What says whose a table's rows are, and the target lacks: tables and columns."""
        there = self.target.tables.get(table.name)
        if there is None:
            return [self.target.name(table.name)]
        tenancy, lacking = table.tenancy, []
        named = [*table.key, *([tenancy.column] if tenancy.column else ())]
        if tenancy.through is not None:
            parent = self.layout.table(tenancy.through.table)
            named += tenancy.through.columns
            lacking = self.lacks(parent)
        return lacking + [
            f"{there.sql}.{quote_identifier(name)}"
            for name in dict.fromkeys(named)
            if there.column(name) is None
        ]

    def is_parent(self, table: LayoutTable) -> bool:
        """Whether rows of the target's tables refer to those of this one."""
        return any(
            name == table.name
            for each in self.layout.tables
            for name, _, _ in self.parents_of(each)
        )

    def refers_to_itself(self, table: LayoutTable) -> bool:
        """Whether rows of the target's table refer to others of it."""
        return any(name == table.name for name, _, _ in self.parents_of(table))

    def is_in_order(self, table: LayoutTable) -> bool:
        """Whether a row has a greater key than those that it refers to in its own table.

        Numbers that are given one after the other are: a cause has its own before its effect.
        """
        scan = [name for name in table.scan or table.key if name != table.tenancy.column]
        column = self.source.tables[table.name].column(scan[0]) if scan else None
        return column is not None and column.type.name in ("int2", "int4", "int8")

    @property
    def may_be_late(self) -> bool:
        """Whether a constraint of the target can be one that is checked at the commit."""
        return any(
            each.is_deferrable
            for table in self.target.tables.values()
            for each in table.constraints
        )

    def is_unique_late(self, table: LayoutTable) -> bool:
        """Whether that is a constraint of this table by which rows exclude each other."""
        return any(
            each.is_deferrable and each.type in ("u", "p", "x")
            for each in self.target.tables[table.name].constraints
        )


async def count(source: AnyTable, shape: Shape, table: LayoutTable, most: int | None) -> int:
    """How many rows of the tenant a table of the source has; no more than ``most`` are read."""
    found = await source.connection.fetchval(
        f"select count(*) from (select from {shape.rows(table, shape.source)} mine limit $1) found",
        most, timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip
    return int(found)


def same_values(other: str, referenced: Iterable[str], columns: Iterable[str]) -> str:
    """Whether a row of ``other`` is the one that columns of ``subject`` refer to."""
    return " and ".join(
        f"{other}.{quote_identifier(there)} = subject.{quote_identifier(here)}"
        for there, here in zip(referenced, columns, strict=True)
    )


def numbering_of(table: LayoutTable, column: str) -> Numbering | None:
    """How the numbers of a column are moved, None for one that is carried as it is."""
    return next((each for each in table.numbered if each.column == column), None)


async def of(source: AnyTable, target: AnyTable, layout: Layout, tenant_id: TenantId) -> Shape:
    """Read both catalogs.

    Raises:
        StoreSchemaError: a table is missing; it is waited for where a tenant is under way.
    """
    here, there = await asyncio.gather(
        _side(source, layout, "source"), _side(target, layout, "target")
    )
    return Shape(layout, tenant_id, here, there)


async def of_one(table: AnyTable, layout: Layout, tenant_id: TenantId) -> Shape:
    """As :func:`of`, where only one of the databases is looked at."""
    side = await _side(table, layout, "source")
    return Shape(layout, tenant_id, side, side)


async def of_places(
    table: AnyTable, layout: Layout, tenant_id: TenantId, places: Mapping[str, str]
) -> Shape:
    """As :func:`of_one`, of those tables that are there, under the names that they have now."""
    side = await _side(table, layout, "target", places)
    return Shape(layout, tenant_id, side, side)


def not_there(layout: Layout, side: str, names: Iterable[str]) -> StoreSchemaError:
    """What is said of tables (quoted, qualified) that one side lacks."""
    missing = "; ".join(f"the {side} has no table {name}" for name in names)
    return StoreSchemaError(
        f"{missing}, which layout {layout.name!r} names: give it its name back or put it there, or"
        " abort what is under way"
    )


async def _side(
    table: AnyTable, layout: Layout, side: str, places: Mapping[str, str] | None = None
) -> Side:
    if places is None:
        places = {each.name: table.beside(each.name) for each in layout.tables}
    found, missing = {}, []
    for name, place in places.items():
        catalog = await reading.read(table.connection, place)
        if catalog is None:
            missing.append(place)
        else:
            found[name] = catalog
    if missing:
        raise not_there(layout, side, missing)
    return Side(table.address.schema, found, str(await table.connection.fetchval(_SORTING)))
