"""How many events of a tenant a store holds between two positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.identifiers import qualified
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.tenant_ids import TenantId

#: A tenant may have as many as that takes (seconds), whatever an application's pool allows.
COUNT_SECONDS = 6 * 3600.0


async def count(store: PostgreSQLEventStore, tenant_id: TenantId, after: int, up_to: int) -> int:
    """Those at positions in (``after``, ``up_to``]."""
    if store.layout is not None:
        return 0  # positions of other libraries' tables are not mapped
    table = qualified(await store.resolve_schema(), store.table_name)
    found = await store.pool.fetchval(
        f"select count(*) from {table} where tenant_id = $1"
        " and global_position > $2 and global_position <= $3",
        as_uuid(tenant_id), after, up_to, timeout=COUNT_SECONDS,
    )  # fmt: skip
    return int(found)
