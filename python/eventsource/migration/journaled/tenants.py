"""Who lives in the tables of a layout, and how large each of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsource.catalog import reading
from eventsource.identifiers import quote_identifier
from eventsource.migration.journaled.shapes import Shape, Side
from eventsource.tenant_ids import TenantId, restored

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable


async def sizes(table: AnyTable) -> list[tuple[TenantId, int, int]]:
    """Tenant, events and bytes without indexes, largest first; reads the whole table."""
    assert table.layout is not None
    tenancy = table.layout.main.tenancy
    if tenancy.column is not None:
        tenant = quote_identifier(tenancy.column)
    elif tenancy.expression is not None:
        tenant = f"({tenancy.expression})"
    else:
        tenant = "'*'"
    rows: list[Any] = await table.connection.fetch(
        f"select {tenant}::text as tenant, count(*) as events,"
        f" sum(pg_column_size(subject.*))::bigint as bytes from {table.name} subject"
        f" where {tenant} is not null group by 1 order by 3 desc, 1"
    )
    return [(restored(row["tenant"]), row["events"], row["bytes"]) for row in rows]


async def size_of(table: AnyTable, tenant_id: TenantId) -> tuple[int, float]:
    """The tenant's rows of the events, and the average bytes of one."""
    assert table.layout is not None
    catalog = await reading.read(table.connection, table.name)
    assert catalog is not None
    side = Side(table.address.schema, {table.layout.events: catalog})
    rows = Shape(table.layout, tenant_id, side, side).rows(table.layout.main, side)
    events = await table.connection.fetchval(f"select count(*) from {rows} mine")
    average = await table.connection.fetchval(
        "select avg(pg_column_size(mine.*))::float8"
        f" from (select * from {rows} mine limit 1000) mine"
    )
    return int(events), average or 0.0
