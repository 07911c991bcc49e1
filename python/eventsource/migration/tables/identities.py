"""Which place a store is: a server, a database and a table in it, whatever a process calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.errors import StoreMismatchError
from eventsource.migration.models import StoreIdentity

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration

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

    A migration of an older version has not recorded that, and is not compared.

    Raises:
        StoreMismatchError: one of them is another place; nothing was changed.
    """
    for store_id, recorded, table in (
        (migration.source_store_id, migration.source_identity, source),
        (migration.target_store_id, migration.target_identity, target),
    ):
        if recorded is None:
            continue
        here = await of(table)
        if here != recorded:
            found = here.describe() if here is not None else f"no table {table.name}"
            raise StoreMismatchError(
                f"store {store_id!r} is {found} here; migration {migration.id} began with"
                f" {recorded.describe()}. Nothing was changed: correct the address of the store in"
                " the configuration of this process"
            )
