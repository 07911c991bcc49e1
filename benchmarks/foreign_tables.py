"""P20, P21: what a table costs whose changes the guard writes down, as tables of other libraries.

The rows are those of workload A, in the same table with the indexes of any event store. It is
declared as a layout here, so that it moves as another library's table does.

P20: `pgbench` inserts for another tenant and for the tenant that moves, each with the guard and
without it, in alternating blocks. P21: the bulk pass of the same rows, and of them as one of our
own tables, in turns.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg

from benchmarks import bulk
from benchmarks.bench import Bar, Bench, forget
from benchmarks.guard_cost import insertion, pgbench
from benchmarks.workload import OTHER, TENANT, build, fingerprint, right
from eventsource.connections import TableAddress
from eventsource.migration.event_table import EventTable, OwnTable
from eventsource.migration.journaled import changes
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.reading import layout_of
from eventsource.migration.tables import fences

OTHERS, MOVING, BULK = 0.98, 0.8, 0.9

#: As an operator would declare it.
DECLARED = {
    "title": "workload A as a foreign table",
    "tables": [
        {
            "table": "events", "events": True, "key": ["global_position"], "tenant": "tenant_id",
            "numbered": {"global_position": "own"}, "stamps": ["transaction_id"],
        }
    ],
}  # fmt: skip


def layout() -> Layout:
    return layout_of("foreign", DECLARED)


async def run(bench: Bench) -> dict[str, Any]:
    cost = await _cost(bench)
    rates = await _bulk(bench)
    ratio = rates["foreign"] / rates["own"]
    speed = Bar("P21", "the bulk pass of a table that is no store of ours",
                f"{rates['foreign']:,.0f} events/s, {ratio:.2f} x one of ours with the same rows",
                f"≥ {BULK} x", ratio >= BULK)  # fmt: skip
    return {"cost": cost["rounds"], "bulk": rates, "bars": [*cost["bars"], speed.as_dict()]}


async def _cost(bench: Bench) -> dict[str, Any]:
    blocks = max(20, min(60, bench.scale // 20_000))
    dsn = await bench.source.create_database()
    await build(dsn, min(bench.scale // 10, 50_000))
    connection = await asyncpg.connect(dsn)
    table = EventTable(connection, TableAddress(dsn, "public", "events"), layout())
    seen = {
        (who, commit): await _in_turns(bench, table, insertion(tenant), commit, blocks)
        for who, tenant in (("others", OTHER), ("moving", TENANT))
        for commit in ("off", "on")
    }
    await connection.close()
    await bench.drop(dsn)
    ratios = {key: _ratio(rates) for key, rates in seen.items()}
    bars = [
        Bar("P20", what,
            f"{ratios[who, 'off']:.3f} x ({statistics.median(seen[who, 'off']['free']):,.0f}/s"
            f" without, {blocks} pairs of blocks); {ratios[who, 'on']:.3f} x where commits wait for"
            " the disk", f"≥ {least} x", ratios[who, "off"] >= least)
        for who, what, least in (
            ("others", "other tenants' inserts beside one that leaves a foreign table", OTHERS),
            ("moving", "the inserts of a tenant that leaves a foreign table", MOVING),
        )
    ]  # fmt: skip
    rounds = {f"{who}, commits {commit}": rates for (who, commit), rates in seen.items()}
    return {"rounds": rounds, "bars": [bar.as_dict() for bar in bars]}


def _ratio(rates: dict[str, list[float]]) -> float:
    pairs = zip(rates["guarded"], rates["free"], strict=True)
    return statistics.median(with_it / without for with_it, without in pairs)


async def _in_turns(
    bench: Bench, table: OwnTable, statement: str, commit: str, blocks: int
) -> dict[str, list[float]]:
    """Inserts per second of each block, while TENANT leaves and while nobody does."""
    seen: dict[str, list[float]] = {"guarded": [], "free": []}
    dsn = str(table.address.dsn)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(statement)
        script.flush()
        await pgbench(bench, dsn, script.name, commit)
        inserted = await table.connection.fetchval("select count(*) from events")
        for number in range(blocks):
            for name in ("guarded", "free") if number % 2 else ("free", "guarded"):
                async with _guarded(table, name == "guarded"):
                    rate, count = await pgbench(bench, dsn, script.name, commit)
                seen[name].append(rate)
                inserted += count
    found = await table.connection.fetchval("select count(*) from events")
    right(found == inserted, f"{found} rows where pgbench says that there are {inserted}")
    return seen


@contextlib.asynccontextmanager
async def _guarded(table: OwnTable, is_guarded: bool) -> AsyncIterator[None]:
    """Guard TENANT as a migration does, look whether its changes are written down, and free it."""
    if not is_guarded:
        yield
        return
    assert table.layout is not None
    fence = await fences.raise_fence(
        table, tenant_id=TENANT, migration_id=uuid4(), store_id="shared", role="source",
        generation=0, budget_seconds=5.0,
    )  # fmt: skip
    await changes.limit(table, fence.fence_id, 1024**3)
    guarded = Guarded(table, table.layout)
    await guarded.each(guarded.renew, fence)
    touched = await table.connection.fetchval(
        "update events set actor_id = actor_id where global_position ="
        " (select min(global_position) from events where tenant_id = $1) returning 1",
        TENANT,
    )
    written = await changes.count(table.connection, table, fence.fence_id, None)
    right(written == touched, f"{written} keys were written down")
    try:
        yield
    finally:
        await changes.forget(table, fence.fence_id)
        await table.connection.execute("delete from eventsource_fences")
        await guarded.each(guarded.renew, fence)


async def _bulk(bench: Bench) -> dict[str, float]:
    """Events per second of the first pass, of our own table and of the same one as a layout's."""
    seconds: dict[str, list[float]] = {"own": [], "foreign": []}
    for number in range(bench.rounds):
        for name in ("own", "foreign") if number % 2 else ("foreign", "own"):
            with bench.timed(f"round {number + 1}: {name} table"):
                if name == "own":
                    seconds[name].append((await bulk.product(bench))["seconds"])
                else:
                    seconds[name].append(await _foreign(bench))
    return {name: bench.scale / statistics.median(each) for name, each in seconds.items()}


async def _foreign(bench: Bench) -> float:
    target_dsn, control_dsn = await bench.database("plain"), await bench.database("control")
    try:
        await bench.settle()
        seen = await bench.move(bench.source_dsn, target_dsn, control_dsn, declared=DECLARED)
        copied = await fingerprint(target_dsn, offset=seen["offset"])
        right(copied == bench.expected, "the move of a foreign table copied wrongly")
        return float(seen["bulk_seconds"])
    finally:
        await forget(bench.source_dsn)
        await bench.drop(target_dsn)
        await bench.drop(control_dsn)
