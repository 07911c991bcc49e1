"""Find the problem before the night of the move. Nothing is changed here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.identifiers import quote_identifier
from eventsource.migration import event_table
from eventsource.migration.event_table import AnyTable, Column, all_columns
from eventsource.migration.preflight.findings import Findings
from eventsource.migration.repositories import hidden_rows
from eventsource.migration.tables import fences, progress
from eventsource.stores.beside import outdated_functions

if TYPE_CHECKING:
    pass

INIT = "run `eventsource-migrate init` or store.create_schema()"

#: How long a preflight that refuses a column's type looks for what stands in the way (seconds).
NUL_SECONDS = 1.0

FENCE_TABLES = (
    "eventsource_fences",
    "eventsource_barrier",
    "eventsource_copy_progress",
    "eventsource_copied_ranges",
)

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
) -> None:
    """Both event tables can take part, and the tenant may move between them."""
    sound = [
        await _check_table(table, side, findings)
        for table, side in ((source, "source"), (target, "target"))
    ]
    if not all(sound):
        return
    if await _identity(source) == await _identity(target):
        findings.problems.append("the target is the source: they are the same table")
        return
    await _check_columns(source, target, findings)
    if findings.problems:
        return
    await _check_source_tenant(source, tenant_id, findings)
    await _check_target_tenant(target, tenant_id, findings)


async def _check_table(table: AnyTable, side: str, findings: Findings) -> bool:
    if await table.connection.fetchval("select pg_is_in_recovery()"):
        findings.problems.append(f"the {side} server is a standby; connect to the primary")
        return False
    name = table.name
    found = await table.connection.fetchrow(
        "select relkind::text as kind, relpersistence <> 'p' as fleeting from pg_class"
        " where oid = to_regclass($1)",
        name,
    )
    if found is None:
        findings.problems.append(f"the {side} table {name} does not exist; {INIT}")
        return False
    if found["kind"] != "r":
        findings.problems.append(
            f"the {side} {name} is not an ordinary table; name an ordinary one"
        )
        return False
    if found["fleeting"]:
        # A crash empties it, after the barrier and after the decision too.
        findings.problems.append(
            f"the {side} table {name} is unlogged, so a crash empties it; alter table {name} set"
            " logged"
        )
        return False
    missing = [
        name
        for name in FENCE_TABLES
        if await table.connection.fetchval("select to_regclass($1) is null", table.beside(name))
    ]
    if missing:
        findings.problems.append(
            f"the {side} schema {table.address.schema!r} lacks {', '.join(missing)}; {INIT}"
        )
        return False
    if outdated := await outdated_functions(table.connection, table.address.schema):
        findings.problems.append(
            f"the {side} schema {table.address.schema!r} has {', '.join(outdated)} of another"
            f" version; {INIT}"
        )
        return False
    if (stray := await fences.stray(table)) is not None:
        findings.problems.append(stray)
    for name in FENCE_TABLES:
        if hidden := await hidden_rows.problem(table.connection, table.beside(name)):
            findings.problems.append(hidden)
    return True


async def _identity(table: AnyTable) -> tuple[object, ...]:
    row = await table.connection.fetchrow(
        "select (select system_identifier from pg_control_system()) as system,"
        " current_database() as database, $1::text::regclass::oid as table",
        table.name,
    )
    return tuple(row.values())


async def _check_columns(
    source: AnyTable,
    target: AnyTable,
    findings: Findings,
) -> None:
    here = {column.name: column for column in await all_columns(source)}
    there = {column.name: column for column in await all_columns(target)}
    for side, columns in (("source", here), ("target", there)):
        for name, types in REQUIRED.items():
            if name not in columns:
                findings.problems.append(f"the {side} table lacks the column {name}; {INIT}")
            elif columns[name].type.split("(")[0] not in types:
                findings.problems.append(
                    f"column {name} of the {side} table is {columns[name].type}, not {types[0]}"
                )
        stamp = columns.get("transaction_id")
        if stamp is None or stamp.type != "xid8":
            findings.problems.append(
                f"the {side} table lacks the column transaction_id xid8; {INIT}, which adds it"
                " without a rewrite"
            )
    carried = {
        name: column
        for name, column in here.items()
        if name != "transaction_id" and not column.generated
    }
    for name, column in carried.items():
        other = there.get(name)
        if other is None:
            findings.problems.append(f"the target table lacks the source's column {name}")
        elif (other.type, other.collation) != (column.type, column.collation):
            findings.problems.append(
                f"column {name} is {_described(column)} in the source and {_described(other)} in"
                " the target; make both the same" + await _refused_by_jsonb(source, column, other)
            )
    for name, column in there.items():
        if name not in here and column.must_be_given:
            findings.problems.append(
                f"the target's column {name} is NOT NULL without a default and the source has no"
                " such column; give it a default"
            )
    findings.columns = tuple(carried)


async def _refused_by_jsonb(source: AnyTable, column: Column, other: Column) -> str:
    r"""Where changing the source's column would stop, if it can be found out within a second.

    json keeps ``\u0000`` as it was written and jsonb refuses it, without a word about where.
    """
    if column.type not in ("json", "text") or other.type != "jsonb":
        return ""
    name = quote_identifier(column.name)
    with contextlib.suppress(TimeoutError, asyncpg.PostgresError):
        async with asyncio.timeout(NUL_SECONDS):
            at = await source.connection.fetchval(
                f"select global_position from {source.name} where"
                f" {name}::text ~ '(^|[^\\\\])(\\\\\\\\)*\\\\u0000'"
                " order by global_position limit 1"
            )
            if at is not None:
                return (
                    f" (jsonb refuses the event at position {at}: its {column.name} holds"
                    r" \u0000, remove it there first)"
                )
    return ""


def _described(column: Column) -> str:
    return column.type + (f" collate {column.collation}" if column.collation else "")


async def _check_source_tenant(table: AnyTable, tenant_id: UUID, findings: Findings) -> None:
    await event_table.position_sequence(table)
    fence = await fences.read(table, tenant_id)
    if fence is not None and fence.state == "moved":
        findings.problems.append(
            f"tenant {tenant_id} has already moved from here to store {fence.moved_to!r}"
        )
    elif fence is not None and (fence.state == "closed" or fence.role == "source"):
        findings.problems.append(
            f"the source still has the fence of migration {fence.migration_id};"
            " abort that one first"
        )
    foreign = await table.connection.fetchval(
        "select coalesce((select transaction_id >= pg_snapshot_xmax(pg_current_snapshot())"
        f" from {table.name} where tenant_id = $1 and transaction_id is not null"
        " order by transaction_id desc limit 1), false)",
        tenant_id,
    )
    if foreign:
        findings.problems.append(
            "the source holds rows whose transaction_id comes from another cluster (a restore);"
            f" repair them first: alter table {table.name} alter transaction_id drop not"
            f" null; update {table.name} set transaction_id = null where transaction_id"
            " >= pg_snapshot_xmax(pg_current_snapshot())"
        )
    if not await _has_index(table, "transaction_id"):
        findings.warnings.append(
            "the source has no index on (tenant_id, transaction_id): catch-up passes will read"
            f" the whole tenant; {INIT}"
        )


async def _has_index(table: AnyTable, second: str) -> bool:
    return bool(
        await table.connection.fetchval(
            "select exists (select from pg_index i where i.indrelid = $1::text::regclass"
            " and i.indisvalid and array(select a.attname::text from unnest(i.indkey) with"
            " ordinality k(attnum, n) join pg_attribute a on a.attrelid = i.indrelid"
            " and a.attnum = k.attnum where n <= 2 order by n) = array['tenant_id', $2::text])",
            table.name,
            second,
        )
    )


async def _check_target_tenant(table: AnyTable, tenant_id: UUID, findings: Findings) -> None:
    if (
        await table.connection.fetchval("select current_setting('default_transaction_read_only')")
        == "on"
    ):
        findings.problems.append("the target is read-only (default_transaction_read_only is on)")
    await event_table.position_sequence(table)
    fence = await fences.read(table, tenant_id)
    if fence is not None and fence.state != "moved":
        findings.problems.append(
            f"the target still has the fence of migration {fence.migration_id};"
            " abort that one first"
        )
    if await table.connection.fetchval(
        f"select exists (select from {table.name} where tenant_id = $1)", tenant_id
    ):
        findings.problems.append(progress.already_there(tenant_id, table.address.table))
