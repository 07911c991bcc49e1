"""Workload A: one tenant's events interleaved with another's in a shared table."""

from __future__ import annotations

import random
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from eventsource.stores.postgresql import PostgreSQLEventStore

TENANT = UUID("a0000000-0000-4000-8000-00000000000a")
OTHER = UUID("b0000000-0000-4000-8000-00000000000b")

EVENTS_PER_STREAM = 20

#: Characters of filler in a payload: a row is then about 500 bytes in COPY.
FILLER = 280

CARRIED = (
    "global_position, event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,"
    ' "timestamp", actor_id, payload, metadata, created_at'
)

# Rows of both tenants alternate; a stream's twenty events are spread over the whole table.
_FILL = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", actor_id, payload, metadata)
select gen_random_uuid(),
       md5(tenant::text || n % greatest($3 / {per_stream}, 1))::uuid, 'Order', 'OrderLineAdded',
       tenant, n / greatest($3 / {per_stream}, 1) + 1, now(), 'user-' || n % 97,
       jsonb_build_object('line', n, 'sku', md5(n::text), 'note', repeat(md5(n::text), {filler})),
       jsonb_build_object('trace', md5((n * 7)::text))
from generate_series($4::bigint, $5::bigint - 1) n,
     unnest(array[$1::uuid, $2::uuid]) tenant
order by n, tenant
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """What was built. ``bytes_per_event`` is the mean size in text COPY."""

    events: int
    streams: int
    bytes_per_event: float


async def build(dsn: str, events: int) -> Workload:
    """Fill ``events`` of the database: ``events`` rows of TENANT and as many of OTHER."""
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
    try:
        await PostgreSQLEventStore(pool, "events").create_schema()
        sql = _FILL.format(per_stream=EVENTS_PER_STREAM, filler=FILLER // 32)
        step = 100_000
        for start in range(0, events, step):
            await pool.execute(sql, TENANT, OTHER, events, start, min(start + step, events))
        await pool.execute("vacuum analyze events")
        row = await pool.fetchrow(
            "select count(*) as events, count(distinct aggregate_id) as streams,"
            f" (select avg(length(t::text)) from (select {CARRIED} from events limit 1000) t)"
            " as size from events where tenant_id = $1",
            TENANT,
        )
        assert row["events"] == events, row
        return Workload(events, row["streams"], float(row["size"]))
    finally:
        await pool.close()


async def fingerprint(dsn: str, table: str) -> tuple[int, int]:
    """Rows of TENANT and the sum of a hash over their carried columns: the answer's check."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            f"select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::numeric"
            f" from (select {CARRIED} from {table} where tenant_id = $1) t",
            TENANT,
        )
        return int(row[0]), int(row[1])
    finally:
        await connection.close()


def shuffled(peers: list[str], seed: int) -> list[str]:
    """The peers of one round in an order that favours nobody."""
    order = list(peers)
    random.Random(seed).shuffle(order)
    return order
