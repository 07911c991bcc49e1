"""Which sessions are in the way: those that were there before the wait began.

A statement's text is never read: it may hold what nobody but its application should see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eventsource.migration.errors import Blocker

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: Lock modes that only readers take; a lock that holds writers off lets them be.
_OF_READERS = ["AccessShareLock", "RowShareLock"]

# Sessions of other roles are shown without their times to those who may not see them. Prepared
# transactions have no session: those who hold a lock for them do not count as young.
_HOLDERS = """
select coalesce(a.pid, 0) as pid,
       coalesce(case when p.gid is not null then 'prepared transaction ' || p.gid end,
                nullif(a.application_name, ''), a.backend_type, 'not shown') as application,
       case when p.gid is not null then 'prepared' else coalesce(a.state, 'not shown') end as state,
       coalesce(extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared)),
                0)::float8 as age_seconds,
       coalesce(a.usename, p.owner, '')::text as account,
       coalesce(host(a.client_addr), '') as address
from (select distinct pid, virtualtransaction from pg_locks l
      where granted and pid is distinct from pg_backend_pid() and {locks}
        and database = (select oid from pg_database where datname = current_database())) l
left join pg_stat_activity a on a.pid = l.pid
-- A prepared transaction keeps the virtual id of its session, which is gone: its own id shows it.
left join pg_locks x on l.pid is null and x.pid is null and x.locktype = 'transactionid'
  and x.granted and x.virtualtransaction = l.virtualtransaction
left join pg_prepared_xacts p on p.transaction = x.transactionid
where coalesce(a.xact_start, p.prepared, '-infinity')
      < clock_timestamp() - make_interval(secs => $1)
order by 4 desc limit 10
"""

_OF_TABLE = _HOLDERS.format(
    locks="locktype = 'relation' and relation = $2::text::regclass and mode <> all ($3::text[])"
)

_OF_FENCE = _HOLDERS.format(
    locks="locktype = 'advisory' and classid = $2::bigint::oid and objid = $3::bigint::oid"
    " and objsubid = 2"
)

_OF_SESSIONS = """
select a.pid, coalesce(nullif(a.application_name, ''), a.backend_type, 'not shown') as application,
       coalesce(a.state, 'not shown') as state,
       coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::float8 as age_seconds,
       coalesce(a.usename, '')::text as account, coalesce(host(a.client_addr), '') as address
from (select distinct blocking from unnest($1::int[]) as waiting,
      unnest(pg_blocking_pids(waiting)) as blocking) b
join pg_stat_activity a on a.pid = b.blocking
order by 4 desc limit 10
"""

_OF_DATABASE = """
select a.pid, coalesce(nullif(a.application_name, ''), a.backend_type) as application,
       coalesce(a.state, 'not shown') as state,
       extract(epoch from clock_timestamp() - a.xact_start)::float8 as age_seconds,
       coalesce(a.usename, '')::text as account, coalesce(host(a.client_addr), '') as address
from pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid()
  and a.backend_type = 'client backend'
  and a.xact_start < clock_timestamp() - make_interval(secs => $1)
order by 4 desc limit 5
"""


async def of_database(connection: Executor, seconds: float) -> list[Blocker]:
    """Whose transactions have been open for more than so many seconds, oldest first; the first
    five. Those of roles whose times may not be seen are not among them."""
    return _blockers(await connection.fetch(_OF_DATABASE, float(seconds)))


async def of_table(
    connection: Executor, table: str, seconds: float, *, readers: bool = False
) -> list[Blocker]:
    """Who has held the table (quoted) for more than so many seconds; ``readers`` count or not."""
    harmless = [] if readers else _OF_READERS
    return _blockers(await connection.fetch(_OF_TABLE, seconds, table, harmless))


async def of_fence(
    connection: Executor, lock_class: int, fence_id: int, seconds: float
) -> list[Blocker]:
    """Whose appends have been in flight at a fence for more than so many seconds."""
    return _blockers(await connection.fetch(_OF_FENCE, seconds, lock_class, fence_id))


async def of_sessions(connection: Executor, waiting: Sequence[int]) -> list[Blocker]:
    """For whom the sessions wait at this moment; each of these once."""
    return _blockers(await connection.fetch(_OF_SESSIONS, list(waiting)))


def _blockers(rows: Sequence[object]) -> list[Blocker]:
    return [Blocker(**dict(row)) for row in rows]  # type: ignore[call-overload]
