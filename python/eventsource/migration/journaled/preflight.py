"""What refuses a move of a layout's tables, before anything is changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import asyncpg

from eventsource.catalog import reading
from eventsource.catalog.findings import warning
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import qualified
from eventsource.migration.errors import PreflightError
from eventsource.migration.journaled import (
    after_flip,
    catalogs,
    expressions,
    keys,
    leaves,
    numbers,
    ownership,
    partitions,
    references,
    shapes,
    whole,
)
from eventsource.migration.journaled.statements import Statements
from eventsource.migration.layouts.declaration import Stops
from eventsource.migration.preflight import event_triggers
from eventsource.migration.preflight.findings import Findings
from eventsource.migration.tables import fences, progress, read_only
from eventsource.tenant_ids import stored

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.models import Migration
    from eventsource.tenant_ids import TenantId

_PUBLISHED_BESIDE = """
select string_agg(quote_ident(p.pubname), ', ' order by p.pubname) from pg_publication_tables p
where p.schemaname = $1 and p.tablename = 'eventsource_changes'
"""

_POINTERS = """
select k.conrelid::regclass::text as name from pg_constraint k
where k.contype = 'f' and k.confrelid = $1::text::regclass and k.conparentid = 0
  and k.conrelid <> all (select to_regclass(name)::oid from unnest($2::text[]) name)
"""


async def look(
    source: AnyTable, target: AnyTable, tenant_id: TenantId, findings: Findings, fire: bool
) -> None:
    """As the admission asks for it."""
    for side, table in (("source", source), ("target", target)):
        if await table.connection.fetchval("select pg_is_in_recovery()"):
            findings.problems.append(f"the {side} server is a standby; connect to the primary")
        if table.layout is None:
            findings.problems.append(
                f"the {side} has one of our own tables and the other store none: a tenant moves"
                " between tables of one layout"
            )
    if not findings.problems:
        await examine(source, target, tenant_id, findings, fire=fire)


async def examine(
    source: AnyTable, target: AnyTable, tenant_id: TenantId, findings: Findings, *, fire: bool
) -> Shape | None:
    """Look at everything; None when the tables are not even there."""
    layout = source.layout
    assert layout is not None
    if target.layout is None or target.layout.name != layout.name:
        there = target.layout.name if target.layout is not None else "none"
        findings.problems.append(
            f"the source has layout {layout.name!r} and the target {there}: give both stores the"
            " same one"
        )
        return None
    for side, table in (("source", source), ("target", target)):
        for name in ("eventsource_fences", "eventsource_changes"):
            if not await table.connection.fetchval(
                "select to_regclass($1) is not null", table.beside(name)
            ):
                findings.problems.append(
                    f"the {side} has no {name} beside its tables; run `eventsource-migrate init`"
                )
    if findings.problems:
        return None
    try:
        shape = await shapes.of(source, target, layout, tenant_id)
    except StoreSchemaError as error:
        findings.problems.append(str(error))
        return None
    findings.note(*ownership.in_bytes(shape), *await ownership.counted_densely(source, shape))
    findings.note(*catalogs.of(shape, fire))
    await leaves.check(source, target, layout, findings, fire=fire)
    for side, table in (("source", source), ("target", target)):
        findings.note(*await event_triggers.check(table, side))
        for each in layout.tables:
            await keys.check(table, side, each, findings)
    if findings.problems:
        return shape
    await _check_tenant(source, target, shape, findings)
    await references.check(source, target, shape, findings)
    await _check_target(target, shape, findings)
    if not findings.problems:
        findings.problems += await not_permitted(source, target, shape)
    if not findings.problems:
        findings.problems += await numbers.problems_of(source, target, shape)
    if not findings.problems:
        expected = Statements(shape, await numbers.expected(target, shape), "0")
        findings.problems += await partitions.problems_of(source, target, expected)
    if not findings.problems:
        findings.problems += await after_flip.problems_of(target, tenant_id)
    if layout.is_whole:
        await whole.examine(source, target, tenant_id, findings)
    await _look_around(source, shape, findings)
    for side, table in (("source", source), ("target", target)):
        await _look_at_publications(table, side, findings)
    return shape


async def not_permitted(source: AnyTable, target: AnyTable, shape: Shape) -> list[str]:
    """Why the role cannot carry on the numbers of the layout's tables, by side and sequence."""
    problems = []
    for side, table in (("source", source), ("target", target)):
        names = await numbers.sequences(table, shape)
        problems += await numbers.not_permitted(side, table, names.values())
    return problems


def refuse(shape: Shape, fire: bool) -> None:
    """Asked again before something depends on it.

    Raises:
        PreflightError: what would have refused the start is so now.
    """
    problems = [str(each) for each in catalogs.of(shape, fire) if each.refuses]
    if problems:
        raise PreflightError(problems)


async def fired(connections: DriverConnections, migration: Migration) -> list[str]:
    """Which triggers of the target, and of its partitions, would refuse the start now."""
    source, target = connections.source, connections.target
    assert source.layout is not None
    shape = await shapes.of(source, target, source.layout, migration.tenant_id)
    findings, fires = Findings(), migration.config.fires
    for table in shape.layout.tables:
        findings.note(*catalogs.fired(shape.target.tables[table.name], fires))
    roots = [target.beside(each.name) for each in shape.layout.tables]
    await leaves.fired(target, roots, findings, fire=fires)
    return findings.problems


async def _check_tenant(
    source: AnyTable, target: AnyTable, shape: Shape, findings: Findings
) -> None:
    """The predicate is an expression that cannot fail for others, and shows rows of the tenant."""
    for table in shape.layout.tables:
        if table.tenancy.expression is not None:
            for side, here, there in (
                ("source", source, shape.source), ("target", target, shape.target)
            ):  # fmt: skip
                findings.note(*await expressions.check(here, there, side, table))
    if findings.problems:
        return
    main = shape.layout.main
    try:
        there = await source.connection.fetchval(
            f"select exists (select from {shape.rows(main, shape.source)} mine)"
        )
    except (asyncpg.DataError, asyncpg.CheckViolationError) as error:
        findings.problems.append(
            f"{shape.tenant_id!r} is no id of a tenant in {shape.source.name(main.name)}: {error}"
        )
        return
    if main.tenancy.column is not None:
        # As a number or a UUID it may be spelled in several ways, and rows know one of them.
        spelled = await source.connection.fetchval(
            f"select {shape.tenant}::{shape.type_of(main.name, main.tenancy.column)}::text"
        )
        if spelled != stored(shape.tenant_id):
            findings.problems.append(
                f"no row of {shape.source.name(main.name)} can have tenant {shape.tenant_id!r}:"
                f" column {main.tenancy.column} would have {spelled!r} for it"
            )
            return
    if not there:
        findings.note(
            warning("no-rows", "source", f"the source has no row of tenant {shape.tenant_id} yet")
        )
    fence = await fences.read(source, shape.tenant_id)
    if fence is not None and fence.role == "source" and fence.state == "moved":
        findings.problems.append(
            f"tenant {shape.tenant_id} has already moved from here to store {fence.moved_to!r}"
        )


async def _check_target(target: AnyTable, shape: Shape, findings: Findings) -> None:
    findings.problems += await read_only.problems_of(target)
    fence = await fences.read(target, shape.tenant_id)
    if fence is not None and fence.state != "moved":
        findings.problems.append(
            f"the target has a fence of tenant {shape.tenant_id} ({fence.role}, {fence.state}) of"
            f" migration {fence.migration_id}; finish or abort that one first"
        )
    try:
        await refuse_rows(target, shape)
    except PreflightError as error:
        findings.problems.extend(error.problems)


async def refuse_rows(target: AnyTable, shape: Shape) -> None:
    """The target holds no row of the tenant, and no positions of readers.

    Raises:
        PreflightError: it does.
    """
    problems = []
    fence = await fences.read(target, shape.tenant_id)
    for table in shape.layout.tables:
        if await target.connection.fetchval(
            f"select exists (select from {shape.rows(table, shape.target)} mine)"
        ):
            name = shape.target.name(table.name)
            if fence is not None and fence.state == "moved":
                problems.append(
                    f"{name} of the target still holds what tenant {shape.tenant_id} has left there"
                    f" with migration {fence.migration_id}; when it is not needed any more,"
                    f" {fences.deleting_old_rows(fence.migration_id)}"
                )
                continue
            problems.append(
                f"{name} of the target holds rows, and all of the source's arrive there; what the"
                f" library put in when it made its tables comes with them: delete from {name}"
                if table.tenancy.whole
                else progress.already_there(shape.tenant_id, table.name)
            )
    if problems:
        raise PreflightError(problems)
    await refuse_readers(target, shape)


async def refuse_readers(target: AnyTable, shape: Shape) -> None:
    """No reader of the target is above where the tenant's rows arrive.

    Raises:
        PreflightError: one is.
    """
    problems = []
    for name, condition in shape.layout.readers:
        reader = qualified(shape.target.schema, name)
        if await target.connection.fetchval("select to_regclass($1) is not null", reader) and (
            await target.connection.fetchval(
                f"select exists (select from {reader} where {condition})"
            )
        ):
            problems.append(
                f"{reader} of the target holds positions of readers, and the tenant's rows arrive"
                " below them: these readers would never see them. Move into a database without"
                " readers, or delete their positions if they may read everything again"
            )
    if problems:
        raise PreflightError(problems)


async def _look_around(source: AnyTable, shape: Shape, findings: Findings) -> None:
    layout = shape.layout
    stays = {qualified(shape.source.schema, name): why for name, why in layout.stays}
    names = [source.beside(each.name) for each in layout.tables]
    for table in layout.tables:
        for row in await source.connection.fetch(_POINTERS, source.beside(table.name), names):
            findings.note(
                warning(
                    "companion", "source",
                    f"{row['name']} has a foreign key to {table.name}; its rows stay there",
                )
            )  # fmt: skip
    beside = await reading.companions(source.connection, source.name, ())
    declared = {qualified(shape.source.schema, each.name) for each in layout.tables}
    found = [
        f"{name} ({json.dumps(stays[_quoted(name)])[1:-1]})" if _quoted(name) in stays else name
        for name, _ in beside
        if _quoted(name) not in declared
    ]
    findings.companions = tuple(found)
    findings.columns = tuple(
        f"{table.name}.{each.name}" for table in layout.tables for each in shape.columns(table)
    )
    findings.filled = tuple(
        (f"{table.name}.{name}", "each side fills it for itself")
        for table in layout.tables
        for name in table.stamps
    )
    findings.waits = ownership.waits(layout)
    findings.note(*await ownership.shared_streams(source, shape))
    if layout.stops is not Stops.TENANT:
        findings.note(
            warning(
                "fence-stops", "source",
                "while the fence is held, other writers wait too: the library locks"
                f" {'the whole table' if layout.stops is Stops.TABLE else 'the category'} before it"
                " writes",
            )
        )  # fmt: skip


async def _look_at_publications(table: AnyTable, side: str, findings: Findings) -> None:
    names = await table.connection.fetchval(_PUBLISHED_BESIDE, table.address.schema)
    if names is not None:
        findings.note(
            warning(
                "published-beside", side,
                f"what stands beside the tables of the {side} is published as well ({names}), and a"
                " subscriber without those tables stops: make them there, too"
                " (`eventsource-migrate init --print-sql`)",
            )
        )  # fmt: skip


def _quoted(name: str) -> str:
    """``schema.table`` as the server prints it, with every part quoted."""
    parts = [part.strip('"') for part in name.split(".", 1)]
    return qualified(parts[0], parts[1]) if len(parts) == 2 else name
