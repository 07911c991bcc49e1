"""The statements of the control tables with 100,000 migrations: none reads a whole table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from eventsource.fleet import Candidate, WaveSettings, WaveState, checks, planning, report, view
from eventsource.named_sql import statements
from eventsource.web.snapshots import Snapshots
from tests.support.application import SOURCE, TARGET
from tests.support.fleet import waves_in
from tests.support.worlds.three_databases import World

MIGRATIONS, TENANTS = 100_000, 5_000

_TABLES = ("tenant_migrations", "migration_wave_items", "migration_audit_log", "tenant_routing")

_FILL = """
insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,
    events_copied, total_events, created_at, started_at, completed_at, config, cutover_pause_ms)
select md5('m' || n)::uuid, md5('t' || n)::uuid::text, 'shared', 'dedicated-a',
       case when n <= 40 then 'bulk_copy' else 'migrated' end, n * 131 % 30000, n * 131 % 30000,
       now() - n * interval '1 minute', now() - n * interval '1 minute', now(), $2::text::jsonb, 5.5
from generate_series(1, $1::int) n
"""

_AUDIT = """
insert into migration_audit_log (migration_id, event_type, details, created_at)
select m.id, e.type, '{}', m.created_at + e.after
from tenant_migrations m cross join (values
    ('state:pending', interval '0 s'), ('state:bulk_copy', interval '1 s'),
    ('state:dual_write', interval '2 s'), ('state:migrated', interval '3 s')) as e(type, after)
"""

_WAVES = """
with waves as (
    insert into migration_waves (id, name, state, settings)
    select md5('w' || n)::uuid, 'wave ' || n, case when n = 1 then 'running' else 'done' end, '{}'
    from generate_series(1, 20) n
)
insert into migration_wave_items (wave_id, tenant_id, ordinal, source_store_id, target_store_id,
    events, bytes, outcome, migration_id, began_at, ended_at)
select md5('w' || ((n - 1) / $2::int + 1))::uuid, md5('t' || n)::uuid::text, (n - 1) % $2::int + 1,
       'shared', 'dedicated-a', 1000, 100000,
       case when n > 1000 then 'moved' when n > 900 then 'refused' end, md5('m' || n)::uuid,
       case when n <= 40 or n > 900 then now() end,
       case when n > 900 then now() - (n % 3000) * interval '1 s' end
from generate_series(1, $1::int) n
"""


async def fill(world: World) -> None:
    config = world.coordinator._config.to_json()
    await world.control.execute(_FILL, MIGRATIONS, config)
    await world.control.execute(_AUDIT)
    await world.control.execute(_WAVES, MIGRATIONS, TENANTS)
    await world.control.execute(
        "update tenant_migrations set driver_expires_at = now() + interval '1 hour',"
        " driver_owner = id where state = 'bulk_copy'"
    )
    for table in (*_TABLES, "migration_waves"):
        await world.control.execute(f"vacuum analyze {table}")


def asked() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Every statement that looks for rows, with parameters as it gets them."""
    sql = statements("eventsource.migration.repositories.sql", "migrations.sql")
    stop = statements("eventsource.migration.repositories.sql", "waves.sql")
    waves = statements("eventsource.fleet.sql", "waves.sql")
    seen = statements("eventsource.fleet.sql", "view.sql")
    select, items = sql["select_columns"], waves["item_columns"]
    one, tenant = UUID(int=1), str(UUID(int=1))
    wave = uuid4()
    active = "where state not in ('migrated', 'rolled_back', 'failed') order by created_at, id"
    yield "get", f"{select} where id = $1", (one,)
    yield "get_active", f"{select} {active}", ()
    yield "get_many", f"{select} where id = any ($1::uuid[]) order by created_at", ([one, wave],)
    yield "get_by_tenant", f"{select} where tenant_id = $1 order by created_at, id", (tenant,)
    yield "full_stores", sql["full_stores"], (one, ["", SOURCE, TARGET], [9, 9, 9], wave)
    yield "acquire_lease", sql["acquire_lease"], (one, wave, "me", 10.0, None)
    yield "renew_lease", sql["renew_lease"], (one, wave, 10.0)
    yield (
        "request_cutover",
        sql["request_cutover"],
        (one, wave, False, None, "before the fence", None),
    )
    yield "request_pause", sql["request_pause"], (one, None, True)
    yield "answer_cutover", sql["answer_cutover"], (one, wave, "{}")
    yield "of_migration", stop["of_migration"], (one,)
    yield "withdraw", stop["withdraw"], (wave, one)
    yield "find", f"{items} where wave_id = $1 and tenant_id = $2", (wave, tenant)
    yield "summary", waves["summary"], (wave,)
    yield "finish", waves["finish"], (wave,)
    yield "record_outcome", waves["record_outcome"], (wave, tenant, "moved", one, None, None)
    yield "retry", waves["retry"], (wave, None)
    yield "elsewhere", waves["elsewhere"], ([tenant],)
    yield "moving", seen["moving"], (wave, 200)
    yield "pace", seen["pace"], (wave, 900.0)
    yield "pauses", seen["pauses"], (wave,)
    yield "recent_pauses", seen["recent_pauses"], (wave, 60)
    yield "proofs", seen["proofs"], (wave, 0, 2000)
    yield "copies", seen["copies"], ()
    yield "alone", seen["alone"], ()
    yield "closed", seen["closed"], ([wave],)
    yield "checks", checks._ACTIVE, ([tenant],)


def scans(node: Any) -> Iterator[str]:
    """The tables that a plan reads from end to end."""
    if node.get("Node Type") == "Seq Scan" and node.get("Relation Name") in _TABLES:
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from scans(child)


async def test_no_statement_reads_a_whole_table(world: World) -> None:
    await fill(world)
    reading = {}
    for name, statement, arguments in asked():
        try:
            plan = await world.control.fetchval(f"explain (format json) {statement}", *arguments)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise AssertionError(f"{name}: {error}") from error
        if found := sorted(set(scans(json.loads(plan)[0]["Plan"]))):
            reading[name] = found
    assert reading == {}
    await _everything_is_quick(world)


async def _everything_is_quick(world: World) -> None:
    """Five thousand tenants in a wave: each of the looks takes less than a second."""
    waves = waves_in(world)
    wave = await waves.get("wave 1")
    assert wave.state is WaveState.RUNNING
    took: dict[str, float] = {}

    async def timed(name: str, look: Any) -> Any:
        began = time.monotonic()
        found = await look
        took[name] = round(time.monotonic() - began, 3)
        return found

    shown = await timed("status", view.view_of(waves, wave))
    assert (shown.tenants, len(shown.moving)) == (TENANTS, 40)
    assert shown.longest_pause_ms == 5.5
    rows = await timed("report", report.rows_of(waves, wave))
    assert len(rows) == TENANTS
    snapshots = Snapshots(waves, world.coordinator.get_sync_lag)
    page = await timed("page", snapshots.now())
    assert len(page["waves"]) == 20
    candidates = [Candidate(uuid4(), SOURCE, TARGET, 1000, 10_000) for _ in range(TENANTS)]
    stores = {SOURCE: world.here.source, TARGET: world.here.target}
    assert await timed("checks", checks.of_all(candidates, world.here.migrations, stores)) == {}
    rates = await timed("rates", planning.measured(waves))
    assert rates is not None
    planning.planned(candidates, rates, {"g": 4}, {TARGET: "g"})
    await timed("create", waves.create("new", candidates, WaveSettings()))
    await timed("active", world.here.migrations.get_active())
    # A report reads every tenant's proof, which nobody waits for at a page.
    slow = {name: at for name, at in took.items() if at >= (10.0 if name == "report" else 1.0)}
    assert slow == {}, took
