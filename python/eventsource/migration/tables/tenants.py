"""Who lives in an event table, and how large each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.connections import Executor

# Sizes as they are stored: what is compressed or kept out of the row is not unpacked for it.
_SIZES = """
select tenant_id, count(*) as events,
       sum(pg_column_size(payload) + pg_column_size(metadata) + {fixed})::bigint as bytes
from {table} where tenant_id is not null group by tenant_id order by 3 desc, 1
"""

# The rows of a tenant lie scattered over a shared table: their number is counted in the index.
_SIZES_OF_SOME = """
select asked.tenant_id, counted.events, (counted.events * sampled.average)::bigint as bytes
from unnest($1::uuid[]) asked (tenant_id)
cross join lateral (
    select count(*) as events from {table} where tenant_id = asked.tenant_id
) counted
cross join lateral (
    select avg(pg_column_size(payload) + pg_column_size(metadata) + {fixed})::float8 as average
    from (select payload, metadata from {table} where tenant_id = asked.tenant_id
          limit {sample}) mine
) sampled
where counted.events > 0 order by 3 desc, 1
"""

#: About what the other columns and the header of a row take (bytes).
_FIXED = 200

#: Rows of a tenant by which the size of the others is judged.
SAMPLE = 1000

#: Every tenant, by an expression of a row of `subject` that has an index: from one to the next over
#: that, without the rows between.
IDS = """
with recursive found as (
    (select {tenant} as tenant from {table} subject where {tenant} is not null
     order by {tenant} limit 1)
    union all
    select (select {tenant} from {table} subject where {tenant} > found.tenant
            order by {tenant} limit 1)
    from found where found.tenant is not null
)
select tenant from found where tenant is not null
"""


async def ids(executor: Executor, table: str) -> list[TenantId]:
    """Every tenant with rows in the table."""
    rows = await executor.fetch(IDS.format(tenant="tenant_id", table=table))
    return [row["tenant"] for row in rows]


async def sizes(
    executor: Executor, table: str, only: Sequence[TenantId] | None = None
) -> list[tuple[TenantId, int, int]]:
    """Tenant, events and bytes without indexes, largest first.

    Reads the whole table; of these tenants ``only`` the numbers in the index and some rows of each.
    """
    if only is None:
        rows: list[Any] = await executor.fetch(_SIZES.format(table=table, fixed=_FIXED))
    else:
        some = _SIZES_OF_SOME.format(table=table, fixed=_FIXED, sample=SAMPLE)
        # Where other stores have texts for tenants, one that is no UUID is none of this table.
        rows = await executor.fetch(some, [each for each in only if isinstance(each, UUID)])
    return [(row["tenant_id"], row["events"], row["bytes"]) for row in rows]
