"""How many connections a server has left: applications need them first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.migration.connections.driver_connections import APPLICATION_NAME

if TYPE_CHECKING:
    from eventsource.connections import Executor

# Every role may read these; the sessions of others themselves are not shown to all.
_ROOM = """
select current_setting('max_connections')::int
       - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true)::int, 0) as usable,
       (select coalesce(sum(numbackends), 0) from pg_stat_database)::int as used,
       (select count(*) from pg_stat_activity where application_name = $1)::int as ours,
       pg_postmaster_start_time()::text || ' ' || current_setting('port') as identity
"""


@dataclass(frozen=True, slots=True)
class Room:
    """A server's connections.

    Attributes:
        identity: the same for all databases of a server.
        usable: those that ordinary roles may have.
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
    free = max(0, row["usable"] - row["used"])
    return Room(row["identity"], row["usable"], free, row["ours"])
