"""What foreign keys ask of a layout: whose a row is, what comes first, and what has to be there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.catalog.findings import Finding, warning
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.journaled import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventsource.catalog.model import Constraint
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.migration.preflight.findings import Findings

#: Rows that certainly are in one chunk, which is written in one statement.
ONE_CHUNK = 1_000

#: Rows of a tenant of which the references are looked for at the target: a look, and no proof. A
#: row that is missing for one of the others is waited for when it is needed.
LOOKED_FOR = 100_000


async def check(source: AnyTable, target: AnyTable, shape: Shape, findings: Findings) -> None:
    """Look at all of them."""
    for table in shape.layout.tables:
        await _check_tenant(source, shape, table, findings)
        findings.note(*_unnumbered(shape, table))
        await _check_declared_order(source, shape, table, findings)
        await _check_order(source, shape, table, findings)
        for key in shape.outward(table):
            await _check_outward(source, target, shape, table, key, findings)


async def _check_tenant(
    source: AnyTable, shape: Shape, table: LayoutTable, findings: Findings
) -> None:
    """A tenant by reference is one over a foreign key that is always true."""
    through = table.tenancy.through
    if through is None:
        return
    valid = await source.connection.fetchval(
        "select exists (select from pg_constraint k where k.conrelid = $1::text::regclass"
        " and k.confrelid = $2::text::regclass and k.contype = 'f' and k.convalidated"
        " and not k.condeferrable)",
        shape.source.name(table.name), shape.source.name(through.table),
    )  # fmt: skip
    if not valid:
        findings.note(
            Finding(
                "reference", "source",
                f"{shape.source.name(table.name)} has its tenant through {through.table}, and"
                " no validated foreign key to it that is checked at once: a row may be written"
                " before the one that says whose it is",
            )
        )  # fmt: skip


def _unnumbered(shape: Shape, table: LayoutTable) -> Iterator[Finding]:
    """What refers to a number that is moved has to be moved with it."""
    for name, columns, referenced in shape.parents_of(table):
        parent = shape.layout.table(name)
        for column, number in zip(columns, referenced, strict=True):
            if shapes.numbering_of(parent, number) and not shapes.numbering_of(table, column):
                yield Finding(
                    "unnumbered-reference", "both",
                    f"column {column} of {shape.target.name(table.name)} refers to {number} of"
                    f" {name}, whose numbers are others at the target, and the layout does not move"
                    " it along",
                    f'numbered = {{ {column} = "like:{name}" }}',
                )  # fmt: skip


async def _check_declared_order(
    source: AnyTable, shape: Shape, table: LayoutTable, findings: Findings
) -> None:
    """Tables that others refer to come first; of two that refer to each other neither can."""
    layout = shape.layout
    for name, columns, _ in shape.parents_of(table):
        if layout.number_of(name) <= layout.number_of(table.name):
            continue
        text = f"{table.name} refers to {name} by {', '.join(columns)}, and stands before it"
        back = any(each == table.name for each, _, _ in shape.parents_of(layout.table(name)))
        if not back:
            findings.note(Finding("table-order", "both", text, f"declare {name} before it"))
            continue
        there = " and ".join(f"mine.{quote_identifier(each)} is not null" for each in columns)
        used = await source.connection.fetchval(
            f"select exists (select from {shape.rows(table, shape.source)} mine where {there})",
            timeout=LONG_STATEMENT_SECONDS,
        )
        circle = f"{text}; {name} refers to {table.name}, too, so neither can be written first"
        remedy = "do without one of the foreign keys at the target until the tenant has moved"
        findings.note(Finding("table-order", "target", circle, remedy, refuses=used))


async def _check_order(
    source: AnyTable, shape: Shape, table: LayoutTable, findings: Findings
) -> None:
    """Rows that refer to others of their table are written after those."""
    if not shape.refers_to_itself(table) or shape.is_in_order(table):
        return
    if await shapes.count(source, shape, table, ONE_CHUNK + 1) <= ONE_CHUNK:
        return
    there = shape.target.tables[table.name]
    drop = ", ".join(
        f"drop constraint {quote_identifier(key.name)}"
        for key in there.constraints
        if key.type == "f" and key.enforced and key.references == there.oid
    )
    findings.note(
        Finding(
            "self-reference", "target",
            f"rows of {there.sql} refer to others of it, and its key ({', '.join(table.key)}) does"
            " not say which of them comes first",
            "take a key or a scan of numbers that are given one after the other, or do without"
            f" the foreign key at the target until the tenant has moved: alter table {there.sql}"
            f" {drop}",
        )
    )  # fmt: skip


async def _check_outward(
    source: AnyTable, target: AnyTable, shape: Shape, table: LayoutTable, key: Constraint,
    findings: Findings,
) -> None:  # fmt: skip
    """What no table of the layout carries has to be at the target."""
    there = shape.target.tables[table.name]
    try:
        lacking = await _lacking(source, target, shape, table, key)
    except asyncpg.InsufficientPrivilegeError:
        findings.note(
            warning(
                "foreign-key", "target",
                f"the target's foreign key {key.name} of {there.sql} needs rows of"
                f" {key.referenced}, which this role may not read",
            )
        )  # fmt: skip
        return
    if lacking is not None:
        values = ", ".join(f"{name} = {lacking[name]}" for name in key.columns)
        findings.note(
            Finding(
                "foreign-key", "target",
                f"the target's foreign key {key.name} of {there.sql} needs a row of"
                f" {key.referenced} for {values}, and the layout does not carry that table",
                f"put there what the source has in it, declare the table in the layout, or alter"
                f" table {there.sql} drop constraint {quote_identifier(key.name)}",
            )
        )  # fmt: skip


async def _lacking(
    source: AnyTable, target: AnyTable, shape: Shape, table: LayoutTable, key: Constraint
) -> Any:
    """Values that the tenant's rows refer to and the target has not; None where it has all."""
    names = [quote_identifier(name) for name in key.columns]
    wanted = ", ".join(f"mine.{name}::text as {name}" for name in names)
    there = " and ".join(f"mine.{name} is not null" for name in names)
    found: list[Any] = await source.connection.fetch(
        f"select distinct mine.* from (select {wanted} from {shape.rows(table, shape.source)} mine"
        f" where {there} limit {LOOKED_FOR}) mine",
        timeout=LONG_STATEMENT_SECONDS,
    )
    same = " and ".join(
        f"held.{quote_identifier(referenced)} = given.{name}::{shape.type_of(table.name, column)}"
        for column, name, referenced in zip(key.columns, names, key.referenced_columns, strict=True)
    )
    arrays = ", ".join(f"${place}::text[]" for place in range(1, len(names) + 1))
    return await target.connection.fetchrow(
        f"select * from unnest({arrays}) given ({', '.join(names)})"
        f" where not exists (select from {key.referenced} held where {same}) limit 1",
        *([row[name] for row in found] for name in key.columns),
    )
