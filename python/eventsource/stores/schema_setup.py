"""Making an event table, and bringing an existing one up to what a store needs.

Nothing here rewrites rows or blocks writers for longer than a lock attempt: while a lock is waited
for, every writer queues, so it is asked for with a short timeout and asked for again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from eventsource.catalog import reading
from eventsource.catalog.one_side import unguardable
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import qualified, quote_identifier
from eventsource.named_sql import text
from eventsource.schema_changes import alone, unhurried, with_short_lock
from eventsource.stores.beside import SCRIPTS, outdated_objects
from eventsource.stores.schema import (
    ADDED,
    SQL,
    Index,
    Table,
    check_columns,
    check_sequence,
    columns_of,
    find_table,
    missing_indexes,
)

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

# One at a time in a database.
_SETUP_LOCK = 4_994_162_847_301

_TRIGGER = "eventsource_announce"


async def create_schema(connection: AnyConnection, schema: str | None, name: str) -> Table:
    """Make or upgrade the table, its indexes, its trigger and the objects a migration needs.

    ``connection`` must not be in a transaction, because the indexes of an existing table are built
    concurrently, and must be a session of its own to the end (no transaction pooler).

    Raises:
        StoreSchemaError: the table exists and cannot be upgraded; the message names the fix.
        asyncpg.LockNotAvailableError: other transactions held the table through every attempt.
    """
    async with unhurried(connection), alone(connection, _SETUP_LOCK):
        table = await examine(connection, schema, name)
        if table is None:
            await _create(connection, schema, name)
        else:
            await _upgrade(connection, table)
        made = await find_table(connection, schema, name)
        if made is None:
            raise StoreSchemaError(f"{qualified(schema, name)} was dropped meanwhile; try again")
        await _ensure_trigger(connection, made)
        await _ensure_guard(connection, made)
        return made


async def create_objects(connection: AnyConnection, schema: str) -> None:
    """Make what stands beside tables of another library; of these nothing is changed.

    ``connection`` as for :func:`create_schema`.
    """
    async with unhurried(connection), alone(connection, _SETUP_LOCK):
        await _ensure_objects(connection, schema)


async def home_schema(connection: AnyConnection) -> str:
    """The schema in which a new table without one of its own is made.

    Raises:
        StoreSchemaError: the search path names no existing schema.
    """
    home: str | None = await connection.fetchval("select current_schema()::text")
    if home is None:
        raise StoreSchemaError(
            "no schema of the search path exists or may be used by this role, so there is no place "
            "for the table: pass schema=, set search_path, or grant usage on it"
        )
    return home


def creation(schema: str, name: str) -> list[str]:
    """The statements that make a new table and its indexes."""
    table = qualified(schema, name)
    indexes = ("tenant_id, global_position", "tenant_id, transaction_id, global_position")
    return [
        SQL["create_table"].replace("{table}", table),
        *(f"create index on {table} ({columns})" for columns in indexes),
    ]


def scripts(schema: str) -> list[str]:
    """The scripts that make what stands beside the tables of a schema."""
    files = (text("eventsource.stores", f"sql/{file}") for file in SCRIPTS)
    return [script.replace("{schema}", quote_identifier(schema)) for script in files]


async def _create(connection: AnyConnection, schema: str | None, name: str) -> None:
    home = schema or await home_schema(connection)
    try:
        async with connection.transaction():
            for statement in creation(home, name):
                await connection.execute(statement)
            await _ensure_functions(connection, home)
    except asyncpg.InvalidSchemaNameError as error:
        raise StoreSchemaError(
            f"schema {quote_identifier(home)} does not exist: "
            f"create schema {quote_identifier(home)}"
        ) from error


async def examine(connection: AnyConnection, schema: str | None, name: str) -> Table | None:
    """Look at everything for which the table would be refused; None when there is none yet.

    Nothing is changed: somebody else's table, or one that has to be mended first, stays as it is.

    Raises:
        StoreSchemaError: it cannot be upgraded; the message names the fix.
    """
    table = await find_table(connection, schema, name)
    if table is None:
        return None
    columns = await columns_of(connection, table)
    check_columns(table, columns, ADDED)
    await check_sequence(connection, table)
    catalog = await reading.read(connection, table.sql)
    if catalog is None:
        raise StoreSchemaError(f"{table.sql} was dropped while it was looked at")
    problems = [str(each) for each in unguardable(catalog, "event")]
    if "transaction_id" not in columns and catalog.partition:
        problems.append(
            f"{table.sql} is a partition and lacks the column transaction_id; add it to the table"
            " that it is a partition of: alter table … add column transaction_id xid8"
        )
    if problems:
        raise StoreSchemaError(f"{table.sql} cannot be guarded: {'; '.join(problems)}")
    await _refuse_duplicates(connection, table)
    return table


async def _refuse_duplicates(connection: AnyConnection, table: Table) -> None:
    """What keeps a missing unique index from being built is found before it is begun."""
    if await _is_loading(connection, table):
        return
    for index in (await missing_indexes(connection, table))[0]:
        if not index.unique:
            continue
        columns = ", ".join(quote_identifier(column) for column in index.columns)
        twice = await connection.fetchrow(
            f"select {columns} from {table.sql} group by {columns} having count(*) > 1 limit 1"
        )
        if twice is not None:
            raise _duplicates(table, columns, f"({', '.join(map(str, twice.values()))})")


def _duplicates(table: Table, columns: str, detail: str | None) -> StoreSchemaError:
    return StoreSchemaError(
        f"{table.sql} holds rows with the same ({columns}): {detail} "
        f"Remove the duplicates and run create_schema() again"
    )


async def _upgrade(connection: AnyConnection, table: Table) -> None:
    columns = await columns_of(connection, table)
    if "transaction_id" not in columns:
        await with_short_lock(connection, lambda: _add_transaction_id(connection, table))
    await _ensure_objects(connection, table.schema)
    if not await _is_loading(connection, table):
        await _complete_indexes(connection, table)
    if columns["global_position"].identity == "a":
        await with_short_lock(
            connection,
            lambda: connection.execute(
                f"alter table {table.sql} alter column global_position set generated by default"
            ),
        )


async def _is_loading(connection: AnyConnection, table: Table) -> bool:
    """Whether a migration is loading the table and has put its indexes off until that is done."""
    progress = qualified(table.schema, "eventsource_copy_progress")
    if await connection.fetchval("select to_regclass($1) is null", progress):
        return False
    return bool(
        await connection.fetchval(
            f"select exists (select from {progress} where table_name = $1"
            " and deferred_indexes is not null)",
            table.name,
        )
    )


async def _complete_indexes(connection: AnyConnection, table: Table) -> None:
    missing, broken = await missing_indexes(connection, table)
    for index_name in broken:
        # Left behind by a concurrent build that failed; it costs every write and serves no read.
        await connection.execute(
            f"drop index concurrently if exists {qualified(table.schema, index_name)}"
        )
    for index in missing:
        await _build_index(connection, table, index)


async def _ensure_objects(connection: AnyConnection, schema: str) -> None:
    """What stands beside the tables of a schema: made, or brought up to date, if it is not."""
    fences = qualified(schema, "eventsource_fences")
    if not await connection.fetchval(SQL["knows_tables"], fences):
        await with_short_lock(
            connection,
            lambda: connection.execute(
                f"alter table if exists {fences} add column if not exists table_oid oid"
            ),
        )
    if await outdated_objects(connection, schema):
        # A fence table of an older version is altered, which appends of tenants that move wait for.
        await with_short_lock(connection, lambda: _ensure_functions(connection, schema))


async def _ensure_functions(connection: AnyConnection, schema: str) -> None:
    for script in scripts(schema):
        await connection.execute(script)
    progress = qualified(schema, "eventsource_copy_progress")
    # Where it is only said what would be made, the table is not there yet.
    if await connection.fetchval(
        "select to_regclass($1) is not null and not exists (select from pg_attribute"
        " where attrelid = to_regclass($1) and attname = 'shape' and not attisdropped)",
        progress,
    ):
        # Looked for first: the statement alone would wait for everybody who reads the table.
        await connection.execute(f"alter table {progress} add columns text[], add shape text")


async def _ensure_guard(connection: AnyConnection, table: Table) -> None:
    """The guard of the tenants that leave the table or have left it, as the fences say.

    A rename, a swap of tables or ENABLE TRIGGER ALL takes it away without a word.
    A role that does not own the table can only look for what it may see.

    Raises:
        StoreSchemaError: a fence's name and oid are of two tables; the message says how to choose.
    """
    if not await connection.fetchval(SQL["owns"], table.oid):
        return
    stands = qualified(table.schema, "eventsource_guard_stands")
    if await connection.fetchval(f"select {stands}($1::bigint::oid::regclass)", table.oid):
        return
    renew = qualified(table.schema, "eventsource_guard_renew")
    try:
        await with_short_lock(
            connection,
            lambda: connection.execute(f"select {renew}($1::bigint::oid::regclass)", table.oid),
        )
    except asyncpg.ObjectNotInPrerequisiteStateError as error:
        raise StoreSchemaError(f"{error.message}. {error.hint}") from error


async def _add_transaction_id(connection: AnyConnection, table: Table) -> None:
    await connection.execute(SQL["add_transaction_id"].replace("{table}", table.sql))


async def _build_index(connection: AnyConnection, table: Table, index: Index) -> None:
    unique = "unique " if index.unique else ""
    columns = ", ".join(quote_identifier(column) for column in index.columns)
    try:
        # The server names it: unlike a name made here, that one is cut to 63 bytes and unique.
        await connection.execute(f"create {unique}index concurrently on {table.sql} ({columns})")
    except asyncpg.UniqueViolationError as error:
        for name in (await missing_indexes(connection, table))[1]:
            await connection.execute(
                f"drop index concurrently if exists {qualified(table.schema, name)}"
            )
        raise _duplicates(table, columns, error.detail) from error


async def _ensure_trigger(connection: AnyConnection, table: Table) -> None:
    """The announcement of positions, for every writer and also in a replica-role session."""
    sequence = await check_sequence(connection, table)
    if await connection.fetchval(SQL["describe_trigger"], table.oid, sequence):
        return
    function = qualified(table.schema, _TRIGGER)
    literal = "'" + sequence.replace("'", "''") + "'"

    async def install() -> None:
        await connection.execute(
            f"drop trigger if exists {_TRIGGER} on {table.sql};"
            f"create trigger {_TRIGGER} before insert or update or delete on {table.sql} "
            f"for each statement execute function {function}({literal});"
            f"alter table {table.sql} enable always trigger {_TRIGGER}"
        )

    await with_short_lock(connection, install)
