"""The safe head of the feed: the position below which nothing can appear any more.

A position is drawn before its transaction commits, so a reader that goes to the highest committed
position passes events that are still in flight. Every writer holds a lock on the event table until
it has ended, and announces (``feed.sql``) a floor below all its positions. The head is the last
position drawn, read first, bounded by the floors of the transactions that hold the lock after that:
a transaction that drew an earlier position either still holds it, or has ended and is visible to
the next statement.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.declared import uuid_of
from eventsource.errors import FeedBlockedError, StoreSchemaError
from eventsource.identifiers import qualified
from eventsource.stores.schema import check_sequence, find_table, missing_table

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

# XORed with the table's oid they are the advisory lock classes of the low and the high halves of
# its floors, as in feed.sql. They are negative, and so are the classes: the guard's is positive.
_LOW_HALF, _HIGH_HALF = -1152626862, -78885038

#: Below every position.
ALL_OF_IT = -(2**63)

_POLL_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a later statement may read, and what is no part of the feed yet.

    ``hidden`` names tenants, each with the position above which its events are not: below all of
    them for one that is arriving.
    """

    position: int
    hidden: Mapping[UUID, int]

    def without_hidden(self) -> tuple[int, list[UUID], list[int]]:
        """As the arguments of a statement."""
        return self.position, list(self.hidden), list(self.hidden.values())


class Feed:
    """Finds the head of one table's feed; keeps nothing but names."""

    __slots__ = ("_arriving", "_head", "_hidden", "_name", "_schema", "_table", "_wait_seconds")

    def __init__(self, schema: str | None, name: str, wait_seconds: float) -> None:
        self._schema = schema
        self._name = name
        self._table = qualified(schema, name)
        self._wait_seconds = wait_seconds
        self._head: str | None = None
        self._arriving = self._hidden = ""

    def forget(self) -> None:
        """Look the table's sequence up again before the next use."""
        self._head = None

    async def head(self, connection: AnyConnection) -> Head:
        """The head as it is now.

        Writers that announced nothing (the trigger is missing or disabled) have an unknown floor;
        those that were there at the first look are waited for.

        Raises:
            FeedBlockedError: some of them were still open after the wait.
            StoreSchemaError: there is no such table, or the server is a standby, where the locks
                of writers cannot be seen.
        """
        rows = await self._look(connection)
        position: int = rows[0]["position"]
        floors = [row["floor"] for row in rows if row["floor"] is not None]
        silent = {row["writer"] for row in rows if row["writer"] and row["floor"] is None}
        if silent:
            floors += await self._wait_for(connection, silent)
        hidden: dict[UUID, int] = {}
        if rows[0]["knows_hidden"]:
            found = await connection.fetch(self._hidden, self._name)
            hidden = {uuid_of(row["tenant"]): row["above"] for row in found}
        elif rows[0]["knows_arriving"]:
            arriving = await connection.fetchval(self._arriving, self._name)
            hidden = dict.fromkeys(arriving, ALL_OF_IT)
        return Head(min([position, *floors]), hidden)

    async def _resolve(self, connection: AnyConnection) -> None:
        table = await find_table(connection, self._schema, self._name)
        if table is None:
            raise missing_table(self._table)
        sequence = await check_sequence(connection, table)
        function = qualified(table.schema, "eventsource_arriving")
        hiding = qualified(table.schema, "eventsource_hidden")
        self._arriving = f"select {function}($1)"
        self._hidden = f"select tenant, above from {hiding}($1)"
        self._head = _head_sql(sequence, function, hiding)

    async def _look(self, connection: AnyConnection) -> list[Any]:
        # Before each look: another task may have had it forgotten while this one waited.
        if self._head is None:
            await self._resolve(connection)
            assert self._head is not None
        rows = await connection.fetch(self._head, self._table)
        if rows[0]["events"] is None:
            self.forget()
            raise missing_table(self._table)
        if rows[0]["standby"]:
            raise StoreSchemaError(
                "this server is a standby, where writers in flight cannot be seen: "
                "read the feed from the primary"
            )
        return rows

    async def _wait_for(self, connection: AnyConnection, silent: set[str]) -> list[int]:
        """Wait until these writers have ended or announced; the floors of those that did."""
        floors: list[int] = []
        started = time.monotonic()
        looks = 0
        while silent:
            waited = time.monotonic() - started
            if waited >= self._wait_seconds:
                rows = await connection.fetch(_BLOCKERS, self._table, sorted(silent))
                raise FeedBlockedError(tuple(sorted(row[0] for row in rows)), waited)
            await asyncio.sleep(_POLL_SECONDS[min(looks, len(_POLL_SECONDS) - 1)])
            looks += 1
            # PREPARE TRANSACTION does not change the virtual transaction of the locks.
            seen = [row for row in await self._look(connection) if row["writer"] in silent]
            floors += [row["floor"] for row in seen if row["floor"] is not None]
            silent = {row["writer"] for row in seen if row["floor"] is None}
        return floors


def _head_sql(sequence: str, arriving: str, hidden: str) -> str:
    """The last position drawn and the writers in flight, in one statement.

    One row for each writer, or a single row with a null ``writer``. The lateral join makes the
    server read the sequence before the locks, and OFFSET 0 keeps it from merging the two.
    """
    function = f"{arriving}(text)".replace("'", "''")
    hiding = f"{hidden}(text)".replace("'", "''")
    return f"""
        with drawn as materialized (
            select case when is_called then last_value else last_value - 1 end as position,
                   to_regclass($1::text)::oid as events
            from {sequence}
        )
        select d.position, d.events::bigint as events, pg_is_in_recovery() as standby,
               to_regprocedure('{function}') is not null as knows_arriving,
               to_regprocedure('{hiding}') is not null as knows_hidden, w.writer, w.floor
        from drawn d
        left join lateral (
            select l.virtualtransaction as writer,
                   min(l.objid::bigint) filter (where l.locktype = 'advisory' and
                       l.classid = (d.events::integer # {_LOW_HALF})::oid)
                   + (coalesce(min(l.objid::bigint) filter (where l.locktype = 'advisory' and
                       l.classid = (d.events::integer # {_HIGH_HALF})::oid), 0) << 32) as floor
            from pg_locks l
            where d.position is not null and l.granted and l.pid is distinct from pg_backend_pid()
              and l.database = (select oid from pg_database where datname = current_database())
              and (l.locktype = 'relation' and l.relation = d.events
                   and l.mode = 'RowExclusiveLock'
                   or l.locktype = 'advisory' and l.objsubid = 2 and l.mode = 'ShareLock'
                   and l.classid in ((d.events::integer # {_LOW_HALF})::oid,
                                     (d.events::integer # {_HIGH_HALF})::oid))
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
