"""What the rows of the tenant, and its fences, say about a move: no catalog knows it."""

from __future__ import annotations

import asyncio
from uuid import UUID

from eventsource.catalog.findings import Finding, warning
from eventsource.migration import event_table
from eventsource.migration.event_table import AnyTable
from eventsource.migration.preflight.findings import INIT, Findings
from eventsource.migration.tables import (
    fences,
    integrity,
    progress,
    read_only,
    reserved_block,
    snapshots,
    standby,
)
from eventsource.migration.tables.fences import Fence

#: How long the tenant's streams are looked through for events of others (seconds).
STREAMS_SECONDS = 3.0

_VERSIONS_ARE_UNIQUE = """
select exists (
    select from pg_index i where i.indrelid = $1::text::regclass and i.indisunique
    and i.indisvalid and i.indpred is null and i.indnkeyatts = 3
    and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
         where a.attrelid = i.indrelid and a.attnotnull
         and a.attnum = any (i.indkey[0:i.indnkeyatts - 1]))
        = array['aggregate_id', 'aggregate_type', 'version'])
"""

# Where the tenant has every version of a stream from its first to its last, nobody else's is among
# them: what is before and after is found by the index, without a look at the stream's events.
# Materialized, or the limit has the server read all tenants in the order of their streams.
_TORN = """
with streams as materialized (
    select aggregate_type, aggregate_id, count(*) as events, min(version) as first,
           max(version) as last
    from {table} where tenant_id = $1 group by 1, 2)
select aggregate_type, aggregate_id from streams e
where exists (select from {table} o
              where o.aggregate_id = e.aggregate_id and o.aggregate_type = e.aggregate_type
              and o.version > e.last and o.tenant_id is distinct from $1)
   or e.first > 1
      and exists (select from {table} o
                  where o.aggregate_id = e.aggregate_id and o.aggregate_type = e.aggregate_type
                  and o.version < e.first and o.tenant_id is distinct from $1)
   or e.events <= e.last - e.first
      and exists (select from {table} o
                  where o.aggregate_id = e.aggregate_id and o.aggregate_type = e.aggregate_type
                  and o.tenant_id is distinct from $1)
limit 5
"""

# Each stream once, not each of its events with each of the others.
_TORN_BY_ANY_EVENT = """
with streams as materialized (
    select distinct aggregate_type, aggregate_id from {table} where tenant_id = $1)
select aggregate_type, aggregate_id from streams e
where exists (select from {table} o
              where o.aggregate_id = e.aggregate_id and o.aggregate_type = e.aggregate_type
              and o.tenant_id is distinct from $1)
limit 5
"""


async def check_source(table: AnyTable, tenant_id: UUID, findings: Findings) -> None:
    await _check_positions(table, tenant_id, findings)
    fence = await fences.read(table, tenant_id)
    if fence is not None and fence.state == "moved":
        findings.problems.append(
            f"tenant {tenant_id} has already moved from here to store {fence.moved_to!r}, whatever"
            " its route says: `eventsource-migrate repair` puts that right"
        )
    elif fence is not None and fence.role == "source" and not fence.mirrored:
        findings.problems.append(
            f"tenant {tenant_id} may still return from here by a way back of which the control"
            " database does not know: `eventsource-migrate repair` puts that right"
        )
    elif fence is not None and (fence.state == "closed" or fence.role == "source"):
        findings.problems.append(
            f"the source still has the fence of migration {fence.migration_id};"
            " abort that one first"
        )
    if (mend := await snapshots.mend_of_foreign_ids(table, tenant_id)) is not None:
        findings.problems.append(
            "the source holds rows whose transaction_id comes from another cluster (a restore);"
            f" repair them first: {mend}"
        )
    await _check_streams(table, tenant_id, findings)
    if not await _has_index(table, "transaction_id"):
        findings.warnings.append(
            "the source has no index on (tenant_id, transaction_id): catch-up passes will read"
            f" the whole tenant; {INIT}"
        )


async def _check_positions(table: AnyTable, tenant_id: UUID, findings: Findings) -> None:
    found = await integrity.positions(table, tenant_id)
    if found is None:
        return
    if found.lowest <= 0:
        findings.note(
            Finding(
                "low-positions", "source",
                "the source holds events of the tenant at positions at or below 0, which are never"
                " carried: a position is counted from 1",
            )
        )  # fmt: skip
    if found.not_drawn is not None:
        findings.note(Finding("high-positions", "source", *found.not_drawn))


async def _has_index(table: AnyTable, second: str) -> bool:
    return bool(
        await table.connection.fetchval(
            "select exists (select from pg_index i where i.indrelid = $1::text::regclass"
            " and i.indisvalid and array(select a.attname::text from unnest(i.indkey) with"
            " ordinality k(attnum, n) join pg_attribute a on a.attrelid = i.indrelid"
            " and a.attnum = k.attnum where n <= 2 order by n) = array['tenant_id', $2::text])",
            table.name,
            second,
        )
    )


async def check_target(table: AnyTable, tenant_id: UUID, findings: Findings) -> None:
    findings.problems += await read_only.problems_of(table)
    await event_table.position_sequence(table)
    fence = await fences.read(table, tenant_id)
    if fence is not None and fence.state != "moved":
        findings.problems.append(
            f"the target still has the fence of migration {fence.migration_id};"
            " abort that one first"
        )
    if await event_table.holds_any(table, tenant_id):
        findings.problems.append(
            await _left_behind(table, tenant_id, fence)
            if fence is not None and fence.state == "moved"
            else progress.already_there(tenant_id, table.address.table)
        )
    leaving = await reserved_block.leaving(table)
    if leaving:
        findings.note(
            warning(
                "departures", "target",
                f"tenant {leaving[0].tenant_id} is leaving this table (migration"
                f" {leaving[0].migration_id}): if it needs the positions that this tenant would"
                " take, the copy begins when that one has been cut over or aborted",
            )
        )  # fmt: skip


async def _left_behind(table: AnyTable, tenant_id: UUID, fence: Fence) -> str:
    """The sentence for old rows: which verb takes the tenant back to them, or removes them."""
    left = (
        f"the target table {table.address.table!r} already holds events of tenant {tenant_id},"
        f" which it left with migration {fence.migration_id}"
    )
    if await table.connection.fetchval(
        f"select exists (select from {table.fences} where table_name = $1 and tenant_id = $2"
        f" and role = 'target' and state = '{standby.STANDBY}')",
        table.address.table, str(tenant_id),
    ):  # fmt: skip
        return (
            f"{left}: `eventsource-migrate return {fence.migration_id}` takes it back to them with"
            " every new event, while its way back is open"
        )
    return (
        f"{left}, and no way back is open: `eventsource-migrate cleanup {fence.migration_id}`"
        " removes them, each compared with the tenant's store first; then it moves"
    )


async def _check_streams(table: AnyTable, tenant_id: UUID, findings: Findings) -> None:
    """A stream with events of two tenants would be torn, and go on on both sides."""
    try:
        async with asyncio.timeout(STREAMS_SECONDS):
            each_once = await table.connection.fetchval(_VERSIONS_ARE_UNIQUE, table.name)
            looked_for = _TORN if each_once else _TORN_BY_ANY_EVENT
            torn = await table.connection.fetch(looked_for.format(table=table.name), tenant_id)
    except TimeoutError:
        findings.note(
            warning(
                "mixed-streams", "source",
                "there was no time to look through all streams of the tenant for events of other"
                " tenants: such a stream would be torn",
            )
        )  # fmt: skip
        return
    if torn:
        which = ", ".join(f"{row['aggregate_type']} {row['aggregate_id']}" for row in torn)
        findings.note(
            Finding(
                "mixed-streams", "source",
                f"streams of the tenant hold events of another tenant, or of none ({which}): a move"
                " would tear them",
                f"give each stream one tenant: update {table.name} set tenant_id = '{tenant_id}'"
                " where aggregate_id = …",
            )
        )  # fmt: skip
