"""Whether sessions of a database only read unless they ask for more, as those of its writers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.connections.driver_connections import close_all, open_connection

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

# A driver's own sessions are set to write. The narrowest of what somebody has set counts, if any.
_SET = """
select substring(given from '=(.*)$')::boolean
from pg_db_role_setting s cross join unnest(s.setconfig) given
where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
  and s.setrole in (0, (select oid from pg_roles where rolname = session_user))
  and given like 'default_transaction_read_only=%'
order by s.setrole <> 0 desc, s.setdatabase <> 0 desc limit 1
"""

_BEGAN_WITH = """
select reset_val::boolean from pg_settings where name = 'default_transaction_read_only'
"""


async def problems_of(target: AnyTable) -> list[str]:
    """Why nobody could write where the tenant is going to live."""
    reads = await target.connection.fetchval(_SET)
    if reads is None and (reads := await target.connection.fetchval(_BEGAN_WITH)):
        # It may have begun while something was set that is not any more; a new one knows.
        fresh = await open_connection(target.address.parameters)
        try:
            reads = await fresh.fetchval(_BEGAN_WITH)
        finally:
            await close_all([fresh])
    if not reads:
        return []
    return [
        "the target is read-only (default_transaction_read_only is on); set it off for the database"
        " or the role before the tenant's writers come there"
    ]
