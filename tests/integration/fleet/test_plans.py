"""The statements of the control tables with 100,000 migrations: none reads a whole table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import asyncpg

from eventsource.fleet import Candidate, WaveSettings, WaveState, checks, planning, report, view
from eventsource.migration import MigrationState
from eventsource.migration.repositories import lookups
from eventsource.migration.telemetry import PAUSE_BUCKETS
from eventsource.web.snapshots import Snapshots
from tests.support.application import SOURCE, TARGET
from tests.support.fleet import waves_in
from tests.support.full_journal import (
    MIGRATIONS,
    TABLES,
    TENANTS,
    composed,
    fill,
    named,
    written_in_code,
)
from tests.support.worlds.three_databases import World

#: Statements in code that are not of the control tables, by what they begin with.
_OTHERS = (
    "with applying as ( select t.name,",  # the catalogue's policies
    "select obj_description(",  # the catalogue
    "select array_agg(attname::text) from pg_attribute",
    "select tenant from unnest($1::uuid[]) as tenant where exists",  # a store's events
    "select pg_tablespace_size(",  # a store's disk
    "select sum(pg_total_relation_size(",  # how large a store's indexes are
)

#: Statements that compare everything on purpose, and how seldom.
_ALL_ON_PURPOSE = {
    "route_hooks.pending": "once in five minutes, where a hook is declared",
    "control_place.bind": "once, by a repair, after the control database has become another place",
}

#: What a plan without parameters does not say: how large a wave or a page is, or what is lately.
_BY_SIZE = {"view.pauses", "view.proofs", "route_hooks.pending_lately"}


def scans(node: Any) -> Iterator[str]:
    """The tables that a plan reads from end to end."""
    if node.get("Node Type") == "Seq Scan" and node.get("Relation Name") in TABLES:
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from scans(child)


async def test_no_statement_reads_a_whole_table(world: World) -> None:
    await fill(world.control, world.coordinator._config.to_json())
    reading = {}
    for name, statement in named():
        if name in _ALL_ON_PURPOSE or name in _BY_SIZE:
            continue
        plan = await world.control.fetchval("select pg_temp.generic_plan($1)", statement)
        if found := sorted(set(scans(json.loads(plan)[0]["Plan"]))):
            reading[name] = found
    for name, statement, arguments in composed():
        try:
            plan = await world.control.fetchval(f"explain (format json) {statement}", *arguments)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise AssertionError(f"{name}: {error}") from error
        if found := sorted(set(scans(json.loads(plan)[0]["Plan"]))):
            reading[name] = found
    assert reading == {}, reading
    await _everything_is_quick(world)


def test_every_statement_that_code_holds_itself_is_among_them() -> None:
    planned = [" ".join(statement.split()) for _, statement, _ in composed()]
    missing = [
        (file, text)
        for file, text in written_in_code()
        if not any(text in each for each in planned)
        and not any(text.startswith(known) for known in _OTHERS)
    ]
    assert missing == [], missing


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
    assert shown.longest_pause_ms is not None
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
    await _lists_are_quick(world, timed)
    # A report reads every tenant's proof, which nobody waits for at a page.
    slow = {name: at for name, at in took.items() if at >= (10.0 if name == "report" else 1.0)}
    assert slow == {}, took


async def _lists_are_quick(world: World, timed: Any) -> None:
    page = await timed("list", world.coordinator.list_migrations())
    assert (len(page.migrations), page.more) == (50, 10_000)
    failed = world.coordinator.list_migrations(states=[MigrationState.FAILED], limit=10)
    page = await timed("list failed", failed)
    assert (len(page.migrations), page.more) == (10, 15)
    page = await timed("list by", world.coordinator.list_migrations(operator="ada"))
    assert 0 < page.more < MIGRATIONS / 500
    counted = await timed("summary", world.coordinator.count_migrations())
    assert sum(each.migrations for each in counted) == MIGRATIONS
    [short] = (await world.coordinator.list_migrations(limit=1)).migrations
    ids = await timed("short id", lookups.ids_beginning_with(world.control, str(short.id)[:12]))
    assert ids == [short.id]
    totals = await timed("totals", lookups.totals(world.control, PAUSE_BUCKETS))
    assert (sum(totals.states.values()), totals.pause_count) == (MIGRATIONS, MIGRATIONS - 40)
    assert totals.outcomes == {"ok": MIGRATIONS}
