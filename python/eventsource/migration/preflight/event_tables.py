"""Find the problem before the night of the move. Nothing is changed here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

import asyncpg

from eventsource.catalog import reading
from eventsource.catalog.constraints import tenant_keys
from eventsource.catalog.findings import Finding
from eventsource.catalog.layouts import not_ours
from eventsource.catalog.model import TableCatalog
from eventsource.catalog.presence import columns_of
from eventsource.catalog.two_sides import Comparison, compare
from eventsource.identifiers import quote_identifier
from eventsource.migration.event_table import AnyTable, held
from eventsource.migration.preflight import event_triggers, tenant_rows
from eventsource.migration.preflight.findings import INIT, Findings, at_once
from eventsource.migration.repositories import hidden_rows
from eventsource.migration.tables import fences
from eventsource.stores.beside import outdated_objects

#: How long a preflight that refuses a column's type looks for what stands in the way (seconds).
NUL_SECONDS = 1.0

FENCE_TABLES = (
    "eventsource_fences",
    "eventsource_witnesses",
    "eventsource_copy_progress",
    "eventsource_copied_ranges",
)

#: Functions of the server that everybody may call, unless somebody has taken that back.
FUNCTIONS = (
    "pg_control_system()",
    "pg_current_wal_lsn()",
    "pg_walfile_name(pg_lsn)",
    "pg_current_snapshot()",
    "pg_backend_pid()",
    "pg_blocking_pids(integer)",
    "pg_total_relation_size(regclass)",
    "pg_sequence_last_value(regclass)",
)

_SERVER = """
select pg_is_in_recovery() as standby, current_user::text as role,
       array(select name from unnest($1::text[]) with ordinality as f(name, place)
             where not has_function_privilege('pg_catalog.' || name, 'execute')
             order by place) as locked_away
"""

#: What a carried row needs; other columns are carried as they are.
REQUIRED = {
    "global_position": ("bigint",),
    "event_id": ("uuid",),
    "aggregate_id": ("uuid",),
    "aggregate_type": ("text", "character varying"),
    "version": ("bigint", "integer"),
    "tenant_id": ("uuid",),
}


async def check_stores(
    source: AnyTable,
    target: AnyTable,
    tenant_id: UUID,
    findings: Findings,
    *,
    fire: bool = False,
) -> None:
    """Both event tables can take part, and the tenant may move between them."""
    found, at_target = await at_once(
        findings, partial(_usable_table, source, "source"), partial(_usable_table, target, "target")
    )
    if found is None or at_target is None:
        return
    (here, one), (there, other) = found, at_target
    if one == other:
        findings.problems.append("the target is the source: they are the same table")
        return
    _check_required(here, there, findings)
    compared = compare(here, there, fire=fire)
    findings.take(compared, await _explained(source, here, there, compared))
    await _check_tenant_keys(target, there, tenant_id, findings)
    if findings.problems:
        return
    await at_once(
        findings,
        partial(_rows, tenant_rows.check_source, source, tenant_id, "source"),
        partial(_rows, tenant_rows.check_target, target, tenant_id, "target"),
    )


async def _usable_table(
    table: AnyTable, side: str, findings: Findings
) -> tuple[TableCatalog, tuple[object, ...]] | None:
    """The table's catalog, and which place it is."""
    with findings.unusable(f"the {side}'s database"):
        async with held(table) as one:
            found = await _sound_table(one, side, findings)
            return None if found is None else (found, await _identity(one))
    return None


async def _rows(
    check: Callable[[AnyTable, UUID, Findings], Awaitable[None]],
    table: AnyTable,
    tenant_id: UUID,
    side: str,
    findings: Findings,
) -> None:
    async with held(table) as one:
        await check(one, tenant_id, findings)
        findings.note(*await event_triggers.check(one, side))


async def _sound_table(table: AnyTable, side: str, findings: Findings) -> TableCatalog | None:
    """The table's catalog, None when it is nothing that could take part."""
    server = await table.connection.fetchrow(_SERVER, list(FUNCTIONS))
    if server["standby"]:
        findings.problems.append(f"the {side} server is a standby; connect to the primary")
        return None
    if server["locked_away"]:
        findings.problems.append(_locked_away(server["role"], server["locked_away"], side))
        return None
    name = table.name
    found = await reading.read(table.connection, name)
    if found is None:
        findings.problems.append(f"the {side} table {name} does not exist; {INIT}")
        return None
    if found.kind != "r":
        findings.problems.append(
            f"the {side} {name} is not an ordinary table; name an ordinary one"
        )
        return None
    if found.persistence != "p":
        # A crash empties it, after the barrier and after the decision too.
        findings.problems.append(
            f"the {side} table {name} is unlogged, so a crash empties it; alter table {name} set"
            " logged"
        )
        return None
    names = {column.name for column in found.columns}
    foreign = not_ours(f"the {side} table {name}", names, [n for n in REQUIRED if n not in names])
    if foreign is not None:
        findings.problems.append(foreign)
        return None
    beside = [table.beside(name) for name in FENCE_TABLES]
    present = await columns_of(table.connection, beside)
    missing = [name for name in FENCE_TABLES if table.beside(name) not in present]
    if missing:
        findings.problems.append(
            f"the {side} schema {table.address.schema!r} lacks {', '.join(missing)}; {INIT}"
        )
        return None
    if "shape" not in present[table.progress]:
        findings.problems.append(
            f"{table.progress} of the {side} was made by an older version; {INIT}"
        )
        return None
    if outdated := await outdated_objects(table.connection, table.address.schema):
        findings.problems.append(
            f"the {side} schema {table.address.schema!r} has {', '.join(outdated)} of another"
            f" version; {INIT}"
        )
        return None
    if (stray := await fences.stray(table)) is not None:
        findings.problems.append(stray)
    findings.problems += await hidden_rows.problems(table.connection, beside, ())
    return found


def _locked_away(role: str, names: Sequence[str], side: str) -> str:
    """The problem of a role that may not call a function of the server."""
    lacking = ", ".join(names)
    return (
        f"role {role!r} may not call {lacking} in the {side}'s database; grant execute on function"
        f" {lacking} to {quote_identifier(role)}"
    )


async def _identity(table: AnyTable) -> tuple[object, ...]:
    row = await table.connection.fetchrow(
        "select (select system_identifier from pg_control_system()) as system,"
        " current_database() as database, $1::text::regclass::oid as table",
        table.name,
    )
    return tuple(row.values())


def _check_required(source: TableCatalog, target: TableCatalog, findings: Findings) -> None:
    for side, table in (("source", source), ("target", target)):
        for name, types in REQUIRED.items():
            column = table.column(name)
            if column is None:
                findings.problems.append(f"the {side} table lacks the column {name}; {INIT}")
            elif column.shown.split("(")[0] not in types:
                findings.problems.append(
                    f"column {name} of the {side} table is {column.shown}, not {types[0]}"
                )
        stamp = table.column("transaction_id")
        if stamp is None or stamp.shown != "xid8":
            findings.problems.append(
                f"the {side} table lacks the column transaction_id xid8; {INIT}, which adds it"
                " without a rewrite"
            )


async def _explained(
    source: AnyTable, here: TableCatalog, there: TableCatalog, compared: Comparison
) -> list[Finding]:
    """The findings, those of a type with what a change of the source's column would meet."""
    explained = []
    for each in compared.findings:
        met = await _refused_by_jsonb(source, here, there, each.column) if each.column else ""
        explained.append(replace(each, text=each.text + met))
    return explained


async def _check_tenant_keys(
    target: AnyTable, catalog: TableCatalog, tenant_id: UUID, findings: Findings
) -> None:
    """What the target asks of a tenant's row in another table, the tenant's row there may meet."""
    for key in tenant_keys(catalog):
        column = quote_identifier(key.referenced_columns[0])
        if not await target.connection.fetchval(
            f"select exists (select from {key.referenced} where {column} = $1)", tenant_id
        ):
            findings.note(
                Finding(
                    "foreign-key", "target",
                    f"the target's foreign key {key.name} needs a row of {key.referenced} for the"
                    f" tenant, which is not there",
                    f"insert it: insert into {key.referenced} ({column}, …) values"
                    f" ('{tenant_id}', …)",
                )
            )  # fmt: skip


async def _refused_by_jsonb(
    source: AnyTable, here: TableCatalog, there: TableCatalog, name: str
) -> str:
    r"""Where changing the source's column would stop, if it can be found out within a second.

    json keeps ``\u0000`` as it was written and jsonb refuses it, without a word about where.
    """
    column, other = here.column(name), there.column(name)
    if column is None or column.shown not in ("json", "text"):
        return ""
    if other is None or other.shown != "jsonb":
        return ""
    quoted = quote_identifier(name)
    with contextlib.suppress(TimeoutError, asyncpg.PostgresError):
        async with asyncio.timeout(NUL_SECONDS):
            at = await source.connection.fetchval(
                f"select global_position from {source.name} where"
                f" {quoted}::text ~ '(^|[^\\\\])(\\\\\\\\)*\\\\u0000'"
                " order by global_position limit 1"
            )
            if at is not None:
                return (
                    f" (jsonb refuses the event at position {at}: its {name} holds"
                    r" \u0000, remove it there first)"
                )
    return ""
