"""Find the problem before the night of the move. Nothing is changed here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource.connections import redact
from eventsource.errors import ConnectionDetailsError, StoreSchemaError
from eventsource.identifiers import qualified, quote_identifier
from eventsource.migration import guard, progress, snapshots
from eventsource.migration.errors import PreflightError

if TYPE_CHECKING:
    from eventsource.dataplane import TableAddress
    from eventsource.migration.repositories import Executor

INIT = "run `eventsource-migrate init` or store.create_schema()"

#: The control tables, and what schema.sql adds to those of the guide.
CONTROL_COLUMNS = {
    "tenant_migrations": (
        "config", "generation", "error_code", "paused_from", "pause_requested", "abort_requested",
        "cutover_request", "cutover_force", "cutover_outcome", "driver_owner", "driver_name",
        "driver_expires_at", "position_offset", "fence_position", "cutover_pause_ms", "updated_at",
    ),
    "tenant_routing": ("generation", "migration_id"),
    "migration_position_mappings": ("source_position", "target_position", "event_id"),
    "migration_audit_log": ("details", "operator"),
}  # fmt: skip
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

_COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
       a.attnotnull and a.attidentity = '' and not a.atthasdef as must_be_given,
       a.attgenerated <> '' as generated,
       case when a.attcollation <> t.typcollation then c.collname end as collation
from pg_attribute a
join pg_type t on t.oid = a.atttypid
left join pg_collation c on c.oid = a.attcollation
where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog describes it; ``collation`` only when it is not the type's own."""

    name: str
    type: str
    must_be_given: bool
    generated: bool
    collation: str | None


@dataclass(slots=True)
class Findings:
    """What preflight saw: problems refuse the move, warnings are told."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    tenant_events: int | None = None

    @contextlib.contextmanager
    def unusable(self, what: str) -> Iterator[None]:
        """What keeps ``what`` from being used in the block is a problem, not an exception."""
        try:
            yield
        except PreflightError as error:
            self.problems.extend(error.problems)
        except (ConnectionDetailsError, StoreSchemaError) as error:
            self.problems.append(f"{what} cannot be used: {redact(str(error))}")
        # The last two come from a DSN that is none: a port out of range, a bracket left open.
        except (
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
            asyncpg.InternalClientError, ValueError,
            OverflowError,
        ) as error:  # fmt: skip
            self.problems.append(
                f"{what} cannot be used: {redact(str(error)) or type(error).__name__};"
                " check the DSN, user, password and privileges"
            )

    def raise_if_refused(self) -> None:
        """Raise PreflightError when there is a problem."""
        if self.problems:
            raise PreflightError(self.problems)


async def carried_columns(connection: Executor, source: TableAddress) -> tuple[str, ...]:
    """The columns a migration carries, in table order: all but ``transaction_id``."""
    return tuple(
        column.name
        for column in await all_columns(connection, source)
        if column.name != "transaction_id" and not column.generated
    )


async def check_control(connection: Executor, findings: Findings) -> None:
    """The four control tables exist, with the columns that this version needs."""
    if await connection.fetchval("select pg_is_in_recovery()"):
        findings.problems.append(
            "the control database is on a standby; connect to the primary, the journal is written"
        )
        return
    if await connection.fetchval("select current_setting('transaction_read_only')") == "on":
        findings.problems.append(
            "the control database is read-only (default_transaction_read_only is on)"
        )
        return
    missing = [
        name
        for name in CONTROL_COLUMNS
        if await connection.fetchval("select to_regclass($1) is null", name)
    ]
    if missing:
        findings.problems.append(
            f"the control database lacks {', '.join(missing)}; run `eventsource-migrate init` or"
            " eventsource.migration.create_schema(pool)"
        )
        return
    for name, columns in CONTROL_COLUMNS.items():
        present = await connection.fetchval(
            "select array_agg(attname::text) from pg_attribute"
            " where attrelid = $1::text::regclass and attnum > 0 and not attisdropped",
            name,
        )
        if lacking := [column for column in columns if column not in present]:
            findings.problems.append(
                f"the control table {name} lacks {', '.join(lacking)}: it was made by an older"
                " version or by hand; run `eventsource-migrate init` or"
                " eventsource.migration.create_schema(pool), which adds them"
            )


async def check_stores(
    source: Executor,
    source_address: TableAddress,
    target: Executor,
    target_address: TableAddress,
    tenant_id: UUID,
    findings: Findings,
) -> None:
    """Both event tables can take part, and the tenant may move between them."""
    sound = [
        await _check_table(connection, address, side, findings)
        for connection, address, side in (
            (source, source_address, "source"),
            (target, target_address, "target"),
        )
    ]
    if not all(sound):
        return
    if await _identity(source, source_address) == await _identity(target, target_address):
        findings.problems.append("the target is the source: they are the same table")
        return
    await _check_columns(source, source_address, target, target_address, findings)
    if findings.problems:
        return
    await _check_source_tenant(source, source_address, tenant_id, findings)
    await _check_target_tenant(target, target_address, tenant_id, findings)


async def _check_table(
    connection: Executor, address: TableAddress, side: str, findings: Findings
) -> bool:
    if await connection.fetchval("select pg_is_in_recovery()"):
        findings.problems.append(f"the {side} server is a standby; connect to the primary")
        return False
    name = qualified(address.schema, address.table)
    found = await connection.fetchrow(
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
        table
        for table in FENCE_TABLES
        if await connection.fetchval(
            "select to_regclass($1) is null", qualified(address.schema, table)
        )
    ]
    if missing:
        findings.problems.append(
            f"the {side} schema {address.schema!r} lacks {', '.join(missing)}; {INIT}"
        )
    return not missing


async def _identity(connection: Executor, address: TableAddress) -> tuple[object, ...]:
    row = await connection.fetchrow(
        "select (select system_identifier from pg_control_system()) as system,"
        " current_database() as database, $1::text::regclass::oid as table",
        qualified(address.schema, address.table),
    )
    return tuple(row.values())


async def all_columns(connection: Executor, address: TableAddress) -> list[Column]:
    """Every column of the table, in its order."""
    rows = await connection.fetch(_COLUMNS, qualified(address.schema, address.table))
    return [Column(**dict(row)) for row in rows]


async def _check_columns(
    source: Executor,
    source_address: TableAddress,
    target: Executor,
    target_address: TableAddress,
    findings: Findings,
) -> None:
    here = {column.name: column for column in await all_columns(source, source_address)}
    there = {column.name: column for column in await all_columns(target, target_address)}
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
                " the target; make both the same"
                + await _refused_by_jsonb(source, source_address, column, other)
            )
    for name, column in there.items():
        if name not in here and column.must_be_given:
            findings.problems.append(
                f"the target's column {name} is NOT NULL without a default and the source has no"
                " such column; give it a default"
            )
    findings.columns = tuple(carried)


async def _refused_by_jsonb(
    source: Executor, address: TableAddress, column: Column, other: Column
) -> str:
    r"""Where changing the source's column would stop, if it can be found out within a second.

    json keeps ``\u0000`` as it was written and jsonb refuses it, without a word about where.
    """
    if column.type not in ("json", "text") or other.type != "jsonb":
        return ""
    name = quote_identifier(column.name)
    with contextlib.suppress(TimeoutError, asyncpg.PostgresError):
        async with asyncio.timeout(NUL_SECONDS):
            at = await source.fetchval(
                f"select global_position from {guard.table(address)} where"
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


async def _check_source_tenant(
    connection: Executor, address: TableAddress, tenant_id: UUID, findings: Findings
) -> None:
    await snapshots.position_sequence(connection, address)
    fence = await guard.read(connection, address, tenant_id)
    if fence is not None and fence.state == "moved":
        findings.problems.append(
            f"tenant {tenant_id} has already moved from here to store {fence.moved_to!r}"
        )
    elif fence is not None and (fence.state == "closed" or fence.role == "source"):
        findings.problems.append(
            f"the source still has the fence of migration {fence.migration_id};"
            " abort that one first"
        )
    foreign = await connection.fetchval(
        "select coalesce((select transaction_id >= pg_snapshot_xmax(pg_current_snapshot())"
        f" from {guard.table(address)} where tenant_id = $1 and transaction_id is not null"
        " order by transaction_id desc limit 1), false)",
        tenant_id,
    )
    if foreign:
        findings.problems.append(
            "the source holds rows whose transaction_id comes from another cluster (a restore);"
            f" repair them first: alter table {guard.table(address)} alter transaction_id drop not"
            f" null; update {guard.table(address)} set transaction_id = null where transaction_id"
            " >= pg_snapshot_xmax(pg_current_snapshot())"
        )
    if not await _has_index(connection, address, "transaction_id"):
        findings.warnings.append(
            "the source has no index on (tenant_id, transaction_id): catch-up passes will read"
            f" the whole tenant; {INIT}"
        )


async def _has_index(connection: Executor, address: TableAddress, second: str) -> bool:
    return bool(
        await connection.fetchval(
            "select exists (select from pg_index i where i.indrelid = $1::text::regclass"
            " and i.indisvalid and array(select a.attname::text from unnest(i.indkey) with"
            " ordinality k(attnum, n) join pg_attribute a on a.attrelid = i.indrelid"
            " and a.attnum = k.attnum where n <= 2 order by n) = array['tenant_id', $2::text])",
            qualified(address.schema, address.table),
            second,
        )
    )


async def _check_target_tenant(
    connection: Executor, address: TableAddress, tenant_id: UUID, findings: Findings
) -> None:
    if await connection.fetchval("select current_setting('default_transaction_read_only')") == "on":
        findings.problems.append("the target is read-only (default_transaction_read_only is on)")
    await snapshots.position_sequence(connection, address)
    fence = await guard.read(connection, address, tenant_id)
    if fence is not None and fence.state != "moved":
        findings.problems.append(
            f"the target still has the fence of migration {fence.migration_id};"
            " abort that one first"
        )
    if await connection.fetchval(
        f"select exists (select from {guard.table(address)} where tenant_id = $1)", tenant_id
    ):
        findings.problems.append(progress.already_there(tenant_id, address.table))


async def within(seconds: float, check: Callable[[], Awaitable[Any]]) -> None:
    """Run a check that must answer soon; a server that does not is a problem of its own."""
    try:
        async with asyncio.timeout(seconds):
            await check()
    except TimeoutError:
        raise PreflightError(
            [f"a server did not answer within {seconds:g} s; check host, port and firewall"]
        ) from None
