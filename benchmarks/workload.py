"""Workload A: one tenant's events interleaved with another's in a shared table."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

import asyncpg

from eventsource.stores.postgresql import PostgreSQLEventStore

TENANT = UUID("a0000000-0000-4000-8000-00000000000a")
OTHER = UUID("b0000000-0000-4000-8000-00000000000b")
#: Lives in the target already where a benchmark says that the target is in use.
SETTLED = UUID("c0000000-0000-4000-8000-00000000000c")

EVENTS_PER_STREAM = 20

#: A first position that no event of a workload reaches.
ABOVE = 1_000_000_000

#: Events of a tenant from which on a workload is filled before it has indexes.
LARGE = 2_000_000

#: Characters of filler in a payload: a row is then about 500 bytes in COPY.
FILLER = 160

CARRIED = (
    "global_position, event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,"
    ' "timestamp", actor_id, payload, metadata, created_at'
)

# Rows of the tenants alternate.
_FILL = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", actor_id, payload, metadata)
select {event_id}, {aggregate_id}, 'Order', 'OrderLineAdded',
       tenant, {version}, now(), 'user-' || n % 97,
       jsonb_build_object('line', n, 'sku', md5(n::text), 'note', repeat(md5(n::text), {filler})),
       jsonb_build_object('trace', md5((n * 7)::text))
from generate_series($2::bigint, $3::bigint - 1) n, unnest($1::uuid[]) tenant
order by n, tenant
"""

# Rises with the number, and is no other tenant's.
_RISING = (
    "(lpad(to_hex({number}), 12, '0') || '7' || substr(md5(tenant::text || {number}), 1, 19))::uuid"
)

# New streams of one event each, so that any number of calls can follow each other.
_MORE = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", actor_id, payload, metadata)
select gen_random_uuid(), gen_random_uuid(), 'Order', 'OrderPlaced', $1::uuid, 1, now(), $3,
       jsonb_build_object('line', n, 'note', repeat(md5(n::text), {filler})), '{{}}'
from generate_series(1, $2::bigint) n
"""

_ONLY_OURS = """
select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = $1::regclass
  and pg_get_indexdef(i.indexrelid) like '%(tenant_id, transaction_id, global_position)'
"""


class Streams(Enum):
    """How a workload's streams lie in the table, and how ids are chosen."""

    #: A stream's twenty events are spread over the whole table; all ids are random.
    SPREAD = "spread"
    #: A stream's events follow each other; ids of streams and of events rise, as version 7 has it.
    TOGETHER = "together"

    def columns(self, events: int) -> dict[str, str]:
        """What goes into the columns that differ, for the n-th of ``events``, from 0 on."""
        if self is Streams.TOGETHER:
            stream = f"n / {EVENTS_PER_STREAM}"
            return {
                "event_id": _RISING.format(number="n"),
                "aggregate_id": _RISING.format(number=stream),
                "version": f"n % {EVENTS_PER_STREAM} + 1",
            }
        streams = max(events // EVENTS_PER_STREAM, 1)
        return {
            "event_id": "gen_random_uuid()",
            "aggregate_id": f"md5(tenant::text || n % {streams})::uuid",
            "version": f"n / {streams} + 1",
        }


class WrongAnswerError(Exception):
    """A peer or the product did not do what it was timed for; its figure means nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What was built. ``bytes_per_event`` is the mean size in text COPY."""

    events: int
    streams: int
    bytes_per_event: float


def right(holds: bool, what: str) -> None:
    """Refuse to go on, and so to print a figure, where an answer is wrong."""
    if not holds:
        raise WrongAnswerError(what)


async def make_store(dsn: str, table: str = "events") -> None:
    """The event table as the product makes it: primary key and four more indexes."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        await PostgreSQLEventStore(pool, table).create_schema()


async def make_plain_table(dsn: str, table: str = "events") -> None:
    """The same table with the indexes that any event store has, and nothing of the product's.

    The index by transaction id serves the product's catch-up passes only: a user who copies by
    hand would not have to maintain it.
    """
    await make_store(dsn, table)
    connection = await asyncpg.connect(dsn)
    try:
        await drop_fifth_index(connection, table)
        await connection.execute(f"drop trigger if exists eventsource_announce on {table}")
    finally:
        await connection.close()


async def drop_fifth_index(connection: Any, table: str = "events") -> None:
    """Drop the index by transaction id, which serves the product's passes only."""
    found = [row["relname"] for row in await connection.fetch(_ONLY_OURS, table)]
    right(len(found) == 1, f"expected one index by transaction id, found {found}")
    await connection.execute(f'drop index "{found[0]}"')


async def build(
    dsn: str,
    events: int,
    tenants: tuple[UUID, ...] = (TENANT, OTHER),
    first: int = 1,
    streams: Streams = Streams.SPREAD,
) -> Workload:
    """Fill ``events`` of the database with ``events`` rows of each of the tenants, from the
    position ``first`` on.

    From LARGE on the indexes are made afterwards: nothing is timed here, and filling them row by
    row would take longer than everything that is.
    """
    await make_store(dsn)
    sql = _FILL.format(filler=FILLER // 32, **streams.columns(events))
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "select setval(pg_get_serial_sequence('events', 'global_position'), $1, false)", first
        )
        later = await _without_indexes(connection) if events >= LARGE else []
        step = 100_000
        for start in range(0, events, step):
            await connection.execute(sql, tenants, start, min(start + step, events))
        for statement in later:
            await connection.execute(statement)
        await connection.execute("vacuum analyze events")
        [row] = await connection.fetch(
            "select count(*) as events, count(distinct aggregate_id) as streams,"
            f" (select avg(length(t::text)) from (select {CARRIED} from events limit 1000) t)"
            " as size from events where tenant_id = $1",
            tenants[0],
        )
        right(row["events"] == events, f"the workload has {row['events']} events, not {events}")
        return Workload(events, row["streams"], float(row["size"]))
    finally:
        await connection.close()


async def _without_indexes(connection: Any) -> list[str]:
    """Drop the secondary indexes of an empty table; the statements that make them again."""
    again = ["set maintenance_work_mem = '1GB'"]
    for name, definition, constraint in await connection.fetch(
        "select c.relname, pg_get_indexdef(i.indexrelid), pg_get_constraintdef(k.oid)"
        " from pg_index i join pg_class c on c.oid = i.indexrelid"
        " left join pg_constraint k on k.conindid = i.indexrelid"
        " where i.indrelid = 'events'::regclass and not i.indisprimary"
    ):
        if constraint is None:
            again.append(definition)
            await connection.execute(f'drop index "{name}"')
        else:
            again.append(f'alter table events add constraint "{name}" {constraint}')
            await connection.execute(f'alter table events drop constraint "{name}"')
    return again


async def write_more(
    connection: Any, tenant: UUID, events: int, per_commit: int = 50, actor: str = "later"
) -> None:
    """``events`` more events of the tenant, in transactions as small as an application's."""
    sql = _MORE.format(filler=FILLER // 32)
    for start in range(0, events, per_commit):
        await connection.execute(sql, tenant, min(per_commit, events - start), actor)


async def fingerprint(
    dsn: str, table: str = "events", offset: int = 0, where: str = "true"
) -> tuple[int, int]:
    """Rows of TENANT and the sum of a hash over their carried columns: the answer's check.

    ``offset`` is taken from every position first; ``where`` leaves rows out. Plain SQL on the text
    of the rows, so that it shares nothing with how the product proves its work.
    """
    columns = CARRIED.replace("global_position", f"global_position - {offset} as position", 1)
    connection = await asyncpg.connect(dsn)
    try:
        [row] = await connection.fetch(
            f"select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::numeric"
            f" from (select {columns} from {table} where tenant_id = $1 and {where}) t",
            TENANT,
        )
        return int(row[0]), int(row[1])
    finally:
        await connection.close()


async def mapping_fingerprint(dsn: str, *, mapped: bool, offset: int = 0) -> tuple[int, int]:
    """Rows and hash of (source position, target position, event): of the mapping or as expected.

    ``mapped`` reads the mapping table of a control database, otherwise it is computed from the
    source's events.
    """
    rows = (
        "select source_position, target_position, event_id from migration_position_mappings"
        if mapped
        else f"select global_position, global_position + {offset}, event_id from events"
        f" where tenant_id = '{TENANT}'"
    )
    connection = await asyncpg.connect(dsn)
    try:
        [row] = await connection.fetch(
            "select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::numeric"
            f" from ({rows}) t"
        )
        return int(row[0]), int(row[1])
    finally:
        await connection.close()


def shuffled(peers: list[str], seed: int) -> list[str]:
    """The peers of one round in an order that favours nobody."""
    order = list(peers)
    random.Random(seed).shuffle(order)
    return order
