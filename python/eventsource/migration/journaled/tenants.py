"""Who lives in the tables of a layout, and how large each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.catalog import reading
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.journaled.shapes import Shape, Side
from eventsource.migration.tables.tenants import IDS, SAMPLE
from eventsource.tenant_ids import TenantId, restored, stored

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

#: What the tenant of tables is called that hold one alone: they do not say.
ONE = "*"

_ALL = """
select {tenant}::text as tenant, count(*) as events,
       sum(pg_column_size(subject.*))::bigint as bytes
from {table} subject where {tenant} is not null and ({wanted}) group by 1 order by 3 desc, 1
"""

_EACH = """
select asked.tenant::text as tenant, counted.events,
       (counted.events * sampled.average)::bigint as bytes
from unnest($1::{type}[]) asked (tenant)
cross join lateral (
    select count(*) as events from {table} subject where {tenant} = asked.tenant
) counted
cross join lateral (
    select avg(pg_column_size(mine.*))::float8 as average
    from (select * from {table} subject where {tenant} = asked.tenant limit {sample}) mine
) sampled
where counted.events > 0 order by 3 desc, 1
"""

_THERE = "select distinct {tenant}::text as tenant from {table} subject where {wanted}"

_HAS_INDEX = """
select exists (
    select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attname = $2
    where i.indrelid = $1::text::regclass and i.indisvalid and i.indpred is null
      and i.indkey[0] = a.attnum)
"""


async def sizes(
    table: AnyTable, only: Sequence[TenantId] | None = None
) -> list[tuple[TenantId, int, int]]:
    """Tenant, events and bytes without indexes, largest first.

    Reads the whole table; of these tenants ``only``, where an index finds them, the numbers in the
    index and some rows of each.
    """
    assert table.layout is not None
    tenant = _expression(table)
    if only is None or table.layout.main.tenancy.whole:
        found = await _fetch(table, _ALL.format(tenant=tenant, table=table.name, wanted="true"))
        if only is not None and len(only) == 1:
            # They do not say what their one tenant is called: it is the one that is asked for.
            return [(only[0], events, size) for _, events, size in found]
        return found
    type_ = await _native(table)
    asked = _of_type(only, type_)
    column = table.layout.main.tenancy.column
    if type_ and await table.connection.fetchval(_HAS_INDEX, table.name, column):
        each = _EACH.format(tenant=tenant, table=table.name, type=type_, sample=SAMPLE)
        return await _fetch(table, each, asked)
    whole = _ALL.format(tenant=tenant, table=table.name, wanted=_among(tenant, type_))
    return await _fetch(table, whole, asked)


async def ids(table: AnyTable) -> list[TenantId]:
    """Every tenant with events in the table; one that is a single tenant's does not say."""
    assert table.layout is not None
    tenancy = table.layout.main.tenancy
    if tenancy.whole:
        return []
    tenant = _expression(table)
    statement = _THERE.format(tenant=tenant, table=table.name, wanted=f"{tenant} is not null")
    if tenancy.column is not None and await table.connection.fetchval(
        _HAS_INDEX, table.name, tenancy.column
    ):
        found = IDS.format(tenant=tenant, table=table.name)
        statement = f"select tenant::text as tenant from ({found}) each"
    rows: list[Any] = await table.connection.fetch(statement, timeout=LONG_STATEMENT_SECONDS)
    return [restored(row["tenant"]) for row in rows]


async def present(table: AnyTable, tenants: Sequence[TenantId]) -> set[TenantId]:
    """Which of these have events in the table; one that is a single tenant's does not say."""
    assert table.layout is not None
    if table.layout.main.tenancy.whole:
        return set()
    tenant, type_ = _expression(table), await _native(table)
    statement = _THERE.format(tenant=tenant, table=table.name, wanted=_among(tenant, type_))
    rows: list[Any] = await table.connection.fetch(statement, _of_type(tenants, type_))
    return {restored(row["tenant"]) for row in rows}


async def _fetch(
    table: AnyTable, statement: str, *arguments: object
) -> list[tuple[TenantId, int, int]]:
    rows: list[Any] = await table.connection.fetch(statement, *arguments)
    return [(restored(row["tenant"]), row["events"], row["bytes"]) for row in rows]


def _expression(table: AnyTable) -> str:
    """The tenant of a row of ``subject``."""
    assert table.layout is not None
    tenancy = table.layout.main.tenancy
    if tenancy.column is not None:
        return f"subject.{quote_identifier(tenancy.column)}"
    return f"({tenancy.expression})" if tenancy.expression is not None else f"'{ONE}'"


async def _native(table: AnyTable) -> str | None:
    """The type of the tenants, where an index over their column can find one that is given."""
    assert table.layout is not None
    column = table.layout.main.tenancy.column
    catalog = await reading.read(table.connection, table.name)
    found = catalog.column(column) if catalog is not None and column is not None else None
    if found is None:
        return None
    if found.shown == "uuid":
        return "uuid"
    return "text" if found.shown.startswith(("text", "character varying")) else None


def _of_type(tenants: Sequence[TenantId], type_: str | None) -> list[object]:
    """What is no UUID is in no column of UUIDs."""
    if type_ == "uuid":
        return [each for each in tenants if isinstance(each, UUID)]
    return [stored(each) for each in tenants]


def _among(tenant: str, type_: str | None) -> str:
    value = tenant if type_ is not None else f"{tenant}::text"
    return f"{value} = any ($1::{type_ or 'text'}[])"


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
