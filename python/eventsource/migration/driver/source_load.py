"""How busy the source is, as a role without special rights can see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.migration.connections.driver_connections import APPLICATION_NAME, open_connection
from eventsource.migration.driver.slowdown import Load

if TYPE_CHECKING:
    from eventsource.connections import ConnectionParameters

#: Commits of one look; their median counts.
COMMITS = 3

#: A commit that takes longer is given up and counts as this (seconds).
LONGEST_COMMIT = 5

#: A commit that is flushed and writes no row: no privilege is needed, no lock is met, nothing is
#: left behind. It is timed by the server, so that a busy driver or a slow network does not count.
_COMMIT = """
do $$
declare
    began timestamptz := clock_timestamp();
begin
    perform pg_logical_emit_message(true, 'eventsource', '');
    commit;
    perform set_config('eventsource.commit_ms',
                       (extract(epoch from clock_timestamp() - began) * 1000)::text, false);
end
$$
"""

#: What another role does is hidden unless this one has pg_read_all_stats: then it is not known.
_SESSIONS = """
select case when count(*) filter (where state is null) = 0
            then count(*) filter (where state = 'active') end
from pg_stat_activity
where usesysid is not null and pid <> pg_backend_pid() and application_name <> $1
  and coalesce(backend_type, 'client backend') = 'client backend'
"""

#: In bytes and not in time: what a replica that stands still reports as time stands still too.
_REPLICAS = """
select case when count(*) filter (where state is null) = 0
            then max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::float8 / 1048576 end
from pg_stat_replication
"""


@dataclass(slots=True)
class SourceLoad:
    """Looks at the source on a connection of its own, which the caller closes."""

    connection: asyncpg.Connection[Any]

    @classmethod
    async def open(cls, source: ConnectionParameters) -> SourceLoad:
        """Connect."""
        connection = await open_connection(source)
        await connection.execute(f"set statement_timeout = '{LONGEST_COMMIT}s'")
        return cls(connection)

    async def look(self) -> Load:
        """The load now."""
        looks = [
            Load(
                await self._commit_ms(),
                await self.connection.fetchval(_SESSIONS, APPLICATION_NAME),
                await self.connection.fetchval(_REPLICAS),
            )
            for _ in range(COMMITS)
        ]
        return Load.middle_of(looks)

    async def _commit_ms(self) -> float:
        try:
            await self.connection.execute(_COMMIT)
        except asyncpg.QueryCanceledError:
            return LONGEST_COMMIT * 1000.0
        return float(
            await self.connection.fetchval("select current_setting('eventsource.commit_ms')")
        )
