"""Looks for one tenant's rows that must not read those of all others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import uuid4

from eventsource.migration import event_table
from eventsource.migration.preflight import tenant_rows
from eventsource.migration.preflight.findings import Findings
from tests.support.worlds.three_databases import World

#: Of all others.
EVENTS = 20_000

_FILL = """
insert into {table} (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                     "timestamp", payload)
select gen_random_uuid(), md5($1::uuid::text || n / 20)::uuid, 'Order', 'OrderPlaced', $1::uuid,
       n % 20 + 1, now(), '{{}}'
from generate_series(0, $2::int - 1) n
"""

_READ = """
select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_all_tables
where relid = $1::text::regclass
"""


async def read_by(world: World, look: Callable[[event_table.AnyTable], Awaitable[object]]) -> int:
    """Rows of the source that the look has read."""
    table = event_table.EventTable(world.source, await world.here.source.address())
    async with world.source.transaction():
        # As a session plans that has run the statement a few times.
        await world.source.execute("set local plan_cache_mode = force_generic_plan")
        before = await world.source.fetchval(_READ, table.name)
        await look(table)
        return int(await world.source.fetchval(_READ, table.name) - before)


async def _filled(world: World, tenants: int) -> None:
    table = event_table.EventTable(world.source, await world.here.source.address())
    for _ in range(tenants):
        await world.source.execute(_FILL.format(table=table.name), uuid4(), EVENTS // tenants)
    await world.source.execute(f"analyze {table.name}")


async def test_a_tenant_that_is_not_there_is_not_looked_for_in_all_rows(world: World) -> None:
    """The table used to be read as a whole, and once under its lock: all rows that are counted are
    of one tenant, as of the first that has come."""
    await _filled(world, tenants=1)
    assert await read_by(world, lambda table: event_table.holds_any(table, uuid4())) < 10


async def test_torn_streams_are_not_looked_for_in_the_streams_of_others(world: World) -> None:
    """With its limit the statement had the server read all tenants in the order of streams."""
    await world.seed(500)
    await _filled(world, tenants=40)
    findings = Findings()

    async def look(table: event_table.AnyTable) -> None:
        await tenant_rows._check_streams(table, world.tenant, findings)

    assert await read_by(world, look) < 3_000
    assert findings.problems == []
