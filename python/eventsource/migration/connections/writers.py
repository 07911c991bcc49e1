"""Sessions of others that may write a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

# Names of sessions are shown to every role. Those of this package say what they are.
_MAY_INSERT = """
select count(*) from pg_stat_activity a join pg_roles r on r.oid = a.usesysid
where a.datname = current_database() and a.pid <> pg_backend_pid()
  and not starts_with(a.application_name, 'eventsource')
  and (has_table_privilege(a.usesysid, $1::text::regclass, 'insert')
       or has_any_column_privilege(a.usesysid, $1::text::regclass, 'insert'))
"""


async def count(table: AnyTable) -> int:
    """How many sessions may insert rows, but for this package's own."""
    return int(await table.connection.fetchval(_MAY_INSERT, table.name))
