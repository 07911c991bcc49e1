"""How many connections a server has left: applications need them first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.migration.connections.driver_connections import APPLICATION_NAME

if TYPE_CHECKING:
    from eventsource.connections import Executor

# Every role may read these; the sessions of others themselves are not shown to all. A limit of the
# role, or of the database, is as hard as the server's; neither stops a superuser.
_ROOM = """
with ends (most, used) as (
    select current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0),
           (select coalesce(sum(numbackends), 0) from pg_stat_database)::int
    union all
    select rolconnlimit,
           (select count(*) from pg_stat_activity
            where usesysid = r.oid and backend_type = 'client backend')::int
    from pg_roles r where rolname = session_user and rolconnlimit >= 0 and not rolsuper
    union all
    select datconnlimit, numbackends
    from pg_database d join pg_stat_database s on s.datid = d.oid
    join pg_roles r on rolname = session_user and not rolsuper
    where d.datname = current_database() and datconnlimit >= 0
)
select (select min(most) from ends) as usable, (select min(most - used) from ends) as free,
       (select count(*) from pg_stat_activity where application_name = $1)::int as ours,
       pg_postmaster_start_time()::text || ' ' || current_setting('port') as identity
"""


@dataclass(frozen=True, slots=True)
class Room:
    """A server's connections.

    Attributes:
        identity: the same for all databases of a server.
        usable: those that the role may have there.
        free: those of them that nobody has.
        ours: those that drivers have.
    """

    identity: str
    usable: int
    free: int
    ours: int


async def of_server(connection: Executor) -> Room:
    """What the server has, in all its databases."""
    row = await connection.fetchrow(_ROOM, APPLICATION_NAME)
    return Room(row["identity"], row["usable"], max(0, row["free"]), row["ours"])
