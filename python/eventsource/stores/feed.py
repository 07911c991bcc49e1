"""The safe head of the feed: the position below which nothing can appear any more.

A position is drawn before its transaction commits, so a reader that goes to the highest committed
position passes events that are still in flight. Every writer holds a lock on the event table until
it has ended, and announces (``announce.sql``) a floor below all its positions. The head is the last
position drawn, read first, bounded by the floors of the transactions that hold the lock after that:
a transaction that drew an earlier position either still holds it, or has ended and is visible to
the next statement.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eventsource.errors import FeedBlockedError, StoreSchemaError
from eventsource.stores.schema import missing_table

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

# XORed with the table's oid it is the advisory lock class of the table's floors, as in
# announce.sql. It is negative, and so are the classes: the guard's class is positive.
FLOOR_CLASS_MASK = -1152626862

# Floors are the low 32 bits of a position. One ahead of the head by less than this was announced
# while the locks were read; any other is behind, by at most 2**32 - 2**28.
_AHEAD = 1 << 28

_POLL_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05)


def head_sql(sequence: str) -> str:
    """The last position drawn and the writers in flight, in one statement.

    One row for each writer, or a single row with a null ``writer``. The lateral join makes the
    server read the sequence before the locks, and OFFSET 0 keeps it from merging the two.
    """
    return f"""
        with drawn as materialized (
            select case when is_called then last_value else last_value - 1 end as position,
                   to_regclass($1::text)::oid as events
            from {sequence}
        )
        select d.position, d.events::bigint as events, pg_is_in_recovery() as standby,
               w.writer, w.floors
        from drawn d
        left join lateral (
            select l.virtualtransaction as writer,
                   array_agg(l.objid::bigint) filter (where l.locktype = 'advisory') as floors
            from pg_locks l
            where d.position is not null and l.granted and l.pid is distinct from pg_backend_pid()
              and l.database = (select oid from pg_database where datname = current_database())
              and (l.locktype = 'relation' and l.relation = d.events
                   and l.mode = 'RowExclusiveLock'
                   or l.locktype = 'advisory' and l.objsubid = 2 and l.mode = 'ShareLock'
                   and l.classid = (d.events::integer # {FLOOR_CLASS_MASK})::oid)
            group by l.virtualtransaction
            having bool_or(l.locktype = 'relation')
            offset 0
        ) w on true
    """


_BLOCKERS = """
    select coalesce(
               'pid ' || l.pid || ', open for ' || date_trunc('second', now() - a.xact_start)
                   || ', ' || coalesce(nullif(left(a.query, 200), ''), a.state, 'state unknown'),
               'prepared transaction ' || quote_literal(p.gid)
                   || ', open for ' || date_trunc('second', now() - p.prepared),
               'transaction ' || l.virtualtransaction)
    from pg_locks l
    left join pg_stat_activity a on a.pid = l.pid
    left join pg_locks x on l.pid is null and x.virtualtransaction = l.virtualtransaction
                        and x.locktype = 'transactionid' and x.mode = 'ExclusiveLock'
    left join pg_prepared_xacts p on p.transaction = x.transactionid
    where l.locktype = 'relation' and l.relation = to_regclass($1::text)
      and l.mode = 'RowExclusiveLock' and l.virtualtransaction = any($2::text[])
"""


async def safe_head(
    connection: AnyConnection,
    table: str,
    sequence: str,
    wait_seconds: float,
) -> int:
    """The position up to which the table may be read in a later statement.

    Writers that announced nothing (the trigger is missing or disabled) have an unknown floor; those
    that were there at the first look are waited for.

    Raises:
        FeedBlockedError: some of them were still open after ``wait_seconds``.
        StoreSchemaError: the table is gone, or the server is a standby, where the locks of writers
            cannot be seen.
    """
    statement = head_sql(sequence)
    rows = await connection.fetch(statement, table)
    if rows[0]["events"] is None:
        raise missing_table(table)
    if rows[0]["standby"]:
        raise StoreSchemaError(
            "this server is a standby, where writers in flight cannot be seen: "
            "read the feed from the primary"
        )
    head: int = rows[0]["position"]
    floors = _floors(rows, head)
    silent = {row["writer"] for row in rows if row["writer"] and not row["floors"]}
    started = time.monotonic()
    looks = 0
    while silent:
        waited = time.monotonic() - started
        if waited >= wait_seconds:
            raise FeedBlockedError(await _blockers(connection, table, silent), waited)
        await asyncio.sleep(_POLL_SECONDS[min(looks, len(_POLL_SECONDS) - 1)])
        looks += 1
        rows = await connection.fetch(statement, table)
        # PREPARE TRANSACTION does not change the virtual transaction of the locks.
        seen = [row for row in rows if row["writer"] in silent]
        floors += _floors(seen, head)
        silent = {row["writer"] for row in seen if not row["floors"]}
    return min([head, *floors])


def _floors(rows: Sequence[Any], head: int) -> list[int]:
    return [unwrap_floor(low, head) for row in rows for low in row["floors"] or ()]


def unwrap_floor(low_bits: int, head: int) -> int:
    """The position whose low 32 bits are ``low_bits``, near or far below ``head``."""
    distance = (low_bits - head) % (1 << 32)
    return head + (distance if distance < _AHEAD else distance - (1 << 32))


async def _blockers(connection: AnyConnection, table: str, writers: set[str]) -> tuple[str, ...]:
    rows = await connection.fetch(_BLOCKERS, table, sorted(writers))
    return tuple(sorted(row[0] for row in rows))
