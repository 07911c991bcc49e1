"""Which place a store is: a server, a database and a table in it, whatever a process calls it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import asyncpg

from eventsource.commands import command
from eventsource.migration.errors import StoreMismatchError
from eventsource.migration.models import StoreIdentity
from eventsource.migration.tables import fences, progress, witnesses

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence

_HERE = """
select (select system_identifier::text from pg_control_system()) as system,
       (select oid::bigint from pg_database where datname = current_database()) as database_oid,
       c.relnamespace::bigint as schema_oid, c.oid::bigint as table_oid,
       format('%I in database %I', c.relname, current_database()) as name
from pg_class c where c.oid = to_regclass($1)
"""


async def of(table: AnyTable) -> StoreIdentity | None:
    """The place that a table's address leads to; None when there is no such table."""
    row = await table.connection.fetchrow(_HERE, table.name)
    return StoreIdentity(**dict(row)) if row is not None else None


async def check(migration: Migration, source: AnyTable, target: AnyTable) -> None:
    """Source and target are where the migration began.

    A migration of an older version has not recorded that, and is not compared. A server that
    `pg_upgrade` has made of the one before has another identifier, and the same rows with the same
    headers: it is the same place.

    Raises:
        StoreMismatchError: one of them is another place; nothing was changed.
    """
    there = await asyncio.gather(of(source), of(target), return_exceptions=True)
    for store_id, recorded, table, here in (
        (migration.source_store_id, migration.source_identity, source, there[0]),
        (migration.target_store_id, migration.target_identity, target, there[1]),
    ):
        if recorded is None:
            continue
        if isinstance(here, BaseException):
            raise here
        if here != recorded and not (
            here is not None
            # Another table of the same server has the same rows beside it, and is another place.
            and (here.system != recorded.system and here.table_oid == recorded.table_oid)
            and await _is_heir(migration, store_id, source, target)
        ):
            found = here.describe() if here is not None else f"no table {table.name}"
            raise StoreMismatchError(
                f"store {store_id!r} is {found} here; migration {migration.id} began with"
                f" {recorded.describe()}. Nothing was changed: correct the address of the store in"
                " the configuration of this process; if the store has really become another place,"
                f" `{command('rebind', migration.id, options=('--store', store_id))}`"
            )


async def check_peers(
    source: AnyTable, target: AnyTable, leaving: Fence | None, arriving: Fence | None
) -> None:
    """What the fences of one migration say of each other, where the journal is not at hand.

    Raises:
        StoreMismatchError: one of them names another place than the one at hand.
    """
    for side, table, fence in (("target", target, leaving), ("source", source, arriving)):
        if fence is None or fence.peer is None:
            continue
        named, here = StoreIdentity(**json.loads(fence.peer)), await of(table)
        if here is not None and here != named and not await _is_same_place(fence, table, side):
            raise StoreMismatchError(
                f"the {side} is {here.describe()} here; the fence of migration"
                f" {fence.migration_id} on the other side names {named.describe()}. Nothing was"
                " changed: correct the address of the store in the configuration of this process"
            )


async def _is_same_place(fence: Fence, table: AnyTable, side: str) -> bool:
    """Whether the place has the migration's own fence, as one that was moved or upgraded has."""
    return await fences.of_migration(table, fence.migration_id, side) is not None


async def _is_heir(migration: Migration, store_id: str, source: AnyTable, target: AnyTable) -> bool:
    """Whether another place has the rows of the recorded one, with their headers."""
    try:
        if store_id == migration.target_store_id:
            return await witnesses.knows_target(target, migration.id) or (
                # Who returns comes to where the move before has left its barriers.
                migration.returns is not None
                and bool(await witnesses.any_stands(target, migration.returns))
            )
        at = await progress.read(target, migration.id)
        return (
            at is not None
            and at.witness is not None
            and await witnesses.stands(source, migration.id, at.witness)
        )
    except asyncpg.UndefinedTableError:
        return False
