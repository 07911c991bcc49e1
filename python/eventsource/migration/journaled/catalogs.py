"""What the catalogs of both sides show about a layout's tables: nothing is asked of their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventsource.catalog import constraints, one_side, two_sides, values
from eventsource.catalog.findings import Finding, warning
from eventsource.catalog.model import GUARD
from eventsource.identifiers import quote_identifier
from eventsource.migration.journaled.shapes import numbering_of

if TYPE_CHECKING:
    from eventsource.catalog.model import Column, TableCatalog
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.layouts.declaration import LayoutTable

#: Types of a tenant's column for which equal values are equal texts.
_TENANT_TYPES = ("uuid", "text", "varchar", "bpchar", "int2", "int4", "int8", "name")

#: Types of a column whose numbers are moved.
_NUMBER_TYPES = ("int2", "int4", "int8", "numeric")

#: Of a column that is made when it is read.
VIRTUAL = "v"

#: Types of a key whose values come back from the journal as they were.
_KEY_TYPES = ("uuid", "text", "varchar", "int2", "int4", "int8", "bool", "timestamptz", "timestamp",
              "date", "numeric")  # fmt: skip


def of(shape: Shape, fire: bool) -> Iterator[Finding]:
    """What the catalogs of both sides show."""
    for table in shape.layout.tables:
        here, there = shape.source.tables[table.name], shape.target.tables[table.name]
        for side, each in (("source", here), ("target", there)):
            yield from _of_one(each, side)
            yield from _guarded(each, side, shape.layout.label)
        yield from fired(there, fire)
        yield from one_side.published(there)
        if table.name == shape.layout.events:
            yield from two_sides.encodings(here, there)
        yield from _generated(here, there)
        for column in shape.columns(table):
            yield from _of_column(table, column, there)
            yield from _drawn(table, column, there)
        yield from constraints.stricter(here, there)
        yield from _declared(table, here)
        for name in table.scan or ():
            if here.column(name) is not None and not shape.is_ordered(table, name):
                yield Finding(
                    "scan-type", "source",
                    f"column {name} of the scan of {here.sql} is {shape.type_of(table.name, name)},"
                    " whose values may be in another order at the target",
                    "leave scan out, or name other columns",
                )  # fmt: skip
        carried = {each.name for each in here.columns}
        for column in there.columns:
            if column.name not in carried and column.not_null and not column.fills_itself:
                yield Finding(
                    "extra-column", "target",
                    f"the target's column {column.name} of {there.sql} is NOT NULL without a"
                    " default, and the source has no such column",
                    f"alter table {there.sql} alter column {quote_identifier(column.name)} drop"
                    " not null",
                )  # fmt: skip


def _of_one(table: TableCatalog, side: str) -> Iterator[Finding]:
    if table.kind not in ("r", "p"):
        yield Finding("kind", side, f"{table.sql} of the {side} is no table")
    if table.kind == "r" and table.children:
        yield Finding(
            "inheritance", side,
            f"the {side} table {table.sql} has children that inherit from it"
            f" ({', '.join(table.children)}): no trigger of it fires for their rows",
            "; ".join(f"alter table {child} no inherit {table.sql}" for child in table.children),
        )  # fmt: skip
    if table.persistence != "p":
        yield Finding("unlogged", side, f"{table.sql} of the {side} is not a permanent table")
    if table.filtered:
        yield Finding(
            "row-security", side,
            f"row-level security of the {side} table {table.sql} hides rows from this role",
            "use a role that it does not apply to",
        )  # fmt: skip
    for rule in table.rules:
        if rule.event != "1" and rule.enabled != "D":
            yield Finding(
                "rule", side,
                f"rule {rule.name!r} of the {side} table {table.sql} turns statements into others",
                f"drop rule {quote_identifier(rule.name)} on {table.sql}",
            )  # fmt: skip


def _guarded(table: TableCatalog, side: str, label: str) -> Iterator[Finding]:
    """A table has one guard, and that knows the tenants of one layout."""
    for trigger in table.triggers:
        if trigger.name == f"{GUARD}insert" and not trigger.bare_function.endswith(f"_of_{label}"):
            yield Finding(
                "other-layout", side,
                f"the {side} table {table.sql} is guarded for tenants of another layout, whose"
                f" guard this one would replace ({trigger.function})",
                "declare the tables of both in one layout",
            )  # fmt: skip
            return


def fired(table: TableCatalog, fire: bool) -> Iterator[Finding]:
    """Triggers of the target that see the carried rows."""
    for trigger in table.triggers:
        ours = trigger.name.startswith(GUARD)
        if trigger.fires and not ours and set(trigger.events) & {"insert", "update", "delete"}:
            text = (
                f"trigger {trigger.name!r} of the target table {table.sql} would fire for carried"
                " rows, and may change them or write elsewhere"
            )
            if fire and trigger.is_row and not trigger.is_before:
                yield warning("trigger-fires", "target", text)
            else:
                yield Finding(
                    "trigger-fires", "target", text,
                    f"alter table {table.sql} disable trigger {quote_identifier(trigger.name)}"
                    " until the tenant has moved",
                )  # fmt: skip


def _generated(here: TableCatalog, there: TableCatalog) -> Iterator[Finding]:
    """What makes itself is made at the target as at the source, or is carried."""
    for column in here.columns:
        other = there.column(column.name)
        if other is None:
            continue
        if not column.is_generated:
            yield from two_sides.generated_at_target(there, column, other)
        elif other.is_generated:
            yield from two_sides.generated_twice(there, column, other)
        else:
            yield warning(
                "generated-at-source", "target",
                f"column {column.name} of {there.sql} is generated at the source and an ordinary"
                " one at the target, where new rows have what their writers give it",
            )  # fmt: skip


def _of_column(table: LayoutTable, column: Column, there: TableCatalog) -> Iterator[Finding]:
    other = there.column(column.name)
    if other is None:
        yield Finding(
            "missing-column", "target",
            f"the target table {there.sql} lacks the source's column {column.name}",
            f"alter table {there.sql} add column {quote_identifier(column.name)} {column.shown}",
        )  # fmt: skip
        return
    if other.type != column.type or other.modifier != column.modifier:
        yield Finding(
            "column-type", "both",
            f"column {column.name} of {there.sql} is {column.shown} at the source and"
            f" {other.shown} at the target",
            "make them the same",
            column=column.name,
        )  # fmt: skip
    if column.name in table.stamps:
        return
    if values.is_stamp(column):
        yield Finding(
            "stamp", "source",
            f"column {column.name} of {table.name} counts in terms of its own cluster only, and the"
            " layout does not name it among its stamps",
            f'stamps = ["{column.name}"]',
        )  # fmt: skip
    elif (why := values.why_not(column)) is not None:
        yield Finding(why[0], "source", f"column {column.name} of {table.name} {why[1]}")
    yield from two_sides.stricter_type(column, other)
    if other.not_null and not column.not_null:
        yield Finding(
            "not-null", "target",
            f"column {column.name} of {there.sql} is NOT NULL at the target alone",
            f"alter table {there.sql} alter column {quote_identifier(column.name)} drop not null",
        )  # fmt: skip


def _drawn(table: LayoutTable, column: Column, there: TableCatalog) -> Iterator[Finding]:
    """Numbers of a sequence of the target are those that the layout knows of."""
    other = there.column(column.name)
    if other is None or not other.sequences or numbering_of(table, column.name) is not None:
        return
    if column.name in table.stamps or table.tenancy.whole:
        return
    text = (
        f"column {column.name} of {there.sql} draws its numbers from a sequence, and the layout"
        " does not say so: after the move the target would give numbers that carried rows have"
    )
    if any(each.like is None for each in table.numbered):
        # A table has one column whose numbers are moved.
        yield warning(
            "drawn", "target", text,
            f"set it before the tenant writes there: select setval('{other.sequences[0].name}', …)",
        )  # fmt: skip
    else:
        yield Finding("drawn", "target", text, f'numbered = {{ {column.name} = "own" }}')


def _declared(table: LayoutTable, here: TableCatalog) -> Iterator[Finding]:
    """Columns that the layout names, and the types that they may have."""
    tenancy = table.tenancy
    named = {*table.key, *table.stamps, *(table.scan or ()), *(n.column for n in table.numbered)}
    named |= {tenancy.column} if tenancy.column else set()
    named |= set(tenancy.through.columns) if tenancy.through else set()
    for name in sorted(named):
        if here.column(name) is None:
            yield Finding("layout", "source", f"{here.sql} has no column {name}, which the layout"
                          " names")  # fmt: skip
    for numbering in table.numbered:
        column = here.column(numbering.column)
        if column is not None and values.innermost(column.type).name not in _NUMBER_TYPES:
            yield Finding(
                "numbered-type", "source",
                f"column {column.name} of {here.sql} is {column.shown}, and numbered are numbers",
            )  # fmt: skip
    for name in table.key:
        column = here.column(name)
        innermost = None if column is None else values.innermost(column.type)
        if column is None or innermost is None:
            continue
        is_known = innermost.name in _KEY_TYPES or innermost.kind == "e"
        if column.is_generated or not is_known:
            yield Finding(
                "key-type", "source",
                f"column {name} of the key of {here.sql} is {column.shown}: its values do not come"
                " back from the journal as they were",
            )  # fmt: skip
    column = here.column(tenancy.column) if tenancy.column else None
    if column is not None and column.generated == VIRTUAL:
        yield Finding(
            "virtual-tenant", "source",
            f"column {column.name} of {here.sql} is a virtual one, which no trigger sees",
            f"tenant = {{ expression = {json.dumps(column.default, ensure_ascii=False)} }}",
        )  # fmt: skip
        return
    type_ = None if column is None else values.innermost(column.type)
    if column is not None and type_ and type_.name not in _TENANT_TYPES and type_.kind != "e":
        yield Finding(
            "tenant-type", "source",
            f"column {column.name} of {here.sql} is {column.shown}: two of its values may be one"
            " tenant",
        )  # fmt: skip
