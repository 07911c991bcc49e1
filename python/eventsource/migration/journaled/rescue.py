"""Rows of a layout's tables that only the target has, because the source has lost them.

The tenant lives at the source, and what the source says counts: the target follows it. Before it
does, what only the target has is kept in a table that no migration deletes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.identifiers import quote_literal
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.journaled import only_there
from eventsource.tenant_ids import stored

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.journaled.carriage import Carriage
    from eventsource.migration.journaled.only_there import Row
    from eventsource.migration.models import Migration

RESCUED = "eventsource_rescued_rows"

#: Rows that are kept in one transaction.
PORTION = 1_000


async def keep_lost(
    source: AnyTable, target: OwnTable, migration: Migration, agreed: Carriage
) -> list[Row]:
    """Copy what only the target has into that table; which rows these are.

    Those that are there already stay.
    """
    assert target.layout is not None
    statements = await only_there.statements_of(source, target, migration.tenant_id, agreed)
    lost = [row async for row in only_there.rows_of_target(target, source, statements)]
    for table in target.layout.tables:
        mine = [row for row in lost if row.table == table.name]
        for first in range(0, len(mine), PORTION):
            keys = ", ".join(row.key for row in mine[first : first + PORTION])
            kept = statements.changed_rows(
                table, f"{quote_literal(f'[{keys}]')}::jsonb", statements.shape.target,
                f"{statements.key(table, at_target=True)} as key, to_jsonb(subject) as row",
            )  # fmt: skip
            await target.connection.execute(
                f"insert into {target.beside(RESCUED)}"
                " (migration_id, tenant_id, table_name, key, digest, row)"
                f" select $1, $2, $3, key, md5(row::text), row from ({kept}) kept"
                " on conflict do nothing",
                migration.id, stored(migration.tenant_id), table.name,
                timeout=LONG_STATEMENT_SECONDS,
            )  # fmt: skip
    return lost
