"""Whether sessions of a database only read unless they ask for more, as those of its writers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

# As a new session of the role would have it: a driver's own sessions are set to write, and are
# older. The narrowest of what somebody has set counts, then what the server was started with.
_READS = """
select coalesce(
    (select substring(given from '=(.*)$')::boolean
     from pg_db_role_setting s cross join unnest(s.setconfig) given
     where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
       and s.setrole in (0, (select oid from pg_roles where rolname = session_user))
       and given like 'default_transaction_read_only=%'
     order by s.setrole <> 0 desc, s.setdatabase <> 0 desc limit 1),
    (select reset_val::boolean from pg_settings where name = 'default_transaction_read_only'))
"""


async def problems_of(target: AnyTable) -> list[str]:
    """Why nobody could write where the tenant is going to live."""
    if not await target.connection.fetchval(_READS):
        return []
    return [
        "the target is read-only (default_transaction_read_only is on); set it off for the database"
        " or the role before the tenant's writers come there"
    ]
