"""Who lives in an event table, and how large each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.connections import Executor

# Sizes as they are stored: what is compressed or kept out of the row is not unpacked for it.
_SIZES = """
select tenant_id, count(*) as events,
       sum(pg_column_size(payload) + pg_column_size(metadata) + {fixed})::bigint as bytes
from {table} where tenant_id is not null and ($1::uuid[] is null or tenant_id = any ($1))
group by tenant_id order by 3 desc, 1
"""

#: About what the other columns and the header of a row take (bytes).
_FIXED = 200


# From tenant to tenant over the index, without the rows between.
_IDS = """
with recursive found as (
    (select tenant_id from {table} where tenant_id is not null order by tenant_id limit 1)
    union all
    select (select tenant_id from {table} where tenant_id > found.tenant_id
            order by tenant_id limit 1)
    from found where found.tenant_id is not null
)
select tenant_id from found where tenant_id is not null
"""


async def ids(executor: Executor, table: str) -> list[TenantId]:
    """Every tenant with rows in the table."""
    return [row["tenant_id"] for row in await executor.fetch(_IDS.format(table=table))]


async def sizes(
    executor: Executor, table: str, only: Sequence[TenantId] | None = None
) -> list[tuple[TenantId, int, int]]:
    """Tenant, events and bytes without indexes, largest first.

    Reads the whole table, or the rows of these tenants ``only``.
    """
    which = None if only is None else list(only)
    rows: list[Any] = await executor.fetch(_SIZES.format(table=table, fixed=_FIXED), which)
    return [(row["tenant_id"], row["events"], row["bytes"]) for row in rows]
