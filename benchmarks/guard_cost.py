"""P10: what the guard of one tenant costs the others, by pgbench.

The same table is written to with the guard and without it, in turns. What counts is measured with
``synchronous_commit`` off, where the disk does not hide what the trigger costs; beside it stands
what it comes to with commits that wait for the disk, as an event store's do, and what the guard of
many tenants costs.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.bench import Bar, Bench
from benchmarks.bench import run as run_program
from benchmarks.workload import OTHER, TENANT, WrongAnswerError, build, right
from eventsource.connections import TableAddress
from eventsource.migration.event_table import EventTable, OwnTable
from eventsource.migration.tables import fences, guard

BAR = 0.98

#: Tenants that have left, for the line beside.
MANY = 1000

#: Of one block, by ``synchronous_commit``: about half a second, so that a burst of other load meets
#: both ways alike.
INSERTS = {"off": 8000, "on": 2000}

_SCRIPT = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", actor_id, payload, metadata)
values (gen_random_uuid(), gen_random_uuid(), 'Order', 'OrderPlaced', '{tenant}', 1, now(), 'ann',
        '{{"line": 1, "note": "{note}"}}', '{{}}');
"""


def insertion(tenant: UUID) -> str:
    """A transaction of one insert, for pgbench."""
    return _SCRIPT.format(tenant=tenant, note="x" * 280)


_RATE = re.compile(r"tps = ([0-9.]+)")
_COUNT = re.compile(r"transactions actually processed: (\d+)")


async def pgbench(
    bench: Bench,
    dsn: str,
    script: str,
    commit: str,
    *,
    clients: int = 2,
    transactions: int | None = None,
) -> tuple[float, int]:
    """(transactions per second, transactions) of one block; `commit` is on or off."""
    each = (INSERTS[commit] if transactions is None else transactions) // clients
    command = [
        str(bench.source.program("pgbench")), "-n", "-M", "prepared", "-c", str(clients),
        "-j", "1", "-t", str(each), "-f", script, dsn,
    ]  # fmt: skip
    options = {"PGOPTIONS": f"-c synchronous_commit={commit}"}
    out = await run_program(command, env={**os.environ, **options})
    rate, count = _RATE.search(out), _COUNT.search(out)
    if rate is None or count is None:
        raise WrongAnswerError(f"pgbench said: {out}")
    return float(rate[1]), int(count[1])


async def run(bench: Bench) -> dict[str, Any]:
    blocks = max(20, min(60, bench.scale // 20_000))
    dsn = await bench.source.create_database()
    await build(dsn, min(bench.scale // 10, 50_000))
    seen = {commit: await _in_turns(bench, dsn, commit, blocks, 1) for commit in INSERTS}
    seen["many"] = await _in_turns(bench, dsn, "off", blocks // 2, MANY)
    await bench.drop(dsn)
    ratios = {name: _ratio(rates) for name, rates in seen.items()}
    rate = {name: statistics.median(values) for name, values in seen["off"].items()}
    bar = Bar("P10", "other tenants' inserts beside a guarded tenant (pgbench)",
              f"{ratios['off']:.3f} x ({rate['guarded']:,.0f} and {rate['free']:,.0f}/s,"
              f" {blocks} pairs of blocks); {ratios['on']:.3f} x where commits wait for the disk;"
              f" {ratios['many']:.3f} x beside {MANY:,} tenants",
              f"≥ {BAR} x", ratios["off"] >= BAR)  # fmt: skip
    return {"ratio": ratios, "rounds": seen, "bars": [bar.as_dict()]}


async def _in_turns(
    bench: Bench, dsn: str, commit: str, blocks: int, tenants: int
) -> dict[str, list[float]]:
    """Inserts per second of each block, with the guard of so many tenants and without it."""
    seen: dict[str, list[float]] = {"guarded": [], "free": []}
    connection = await asyncpg.connect(dsn)
    table = EventTable(connection, TableAddress(dsn, "public", "events"))
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(insertion(OTHER))
        script.flush()
        await pgbench(bench, dsn, script.name, commit)
        inserted = await connection.fetchval("select count(*) from events")
        for number in range(blocks):
            order = ["guarded", "free"] if number % 2 else ["free", "guarded"]
            for name in order:
                if name == "guarded":
                    await _guard(table, tenants)
                rate, count = await pgbench(bench, dsn, script.name, commit)
                await _free(table)
                seen[name].append(rate)
                inserted += count
    found = await connection.fetchval("select count(*) from events")
    right(found == inserted, f"{found} rows where pgbench says that there are {inserted}")
    await connection.close()
    return seen


def _ratio(rates: dict[str, list[float]]) -> float:
    pairs = zip(rates["guarded"], rates["free"], strict=True)
    return statistics.median(with_it / without for with_it, without in pairs)


async def _guard(table: OwnTable, tenants: int) -> None:
    """Guard TENANT as a migration does, behind others that have left, and see that it is."""
    connection = table.connection
    await connection.execute(
        "insert into eventsource_fences (table_name, tenant_id, role, state, generation,"
        " migration_id, store_id, moved_to, patience_ms, lock_id)"
        " select 'events', gen_random_uuid(), 'source', 'moved', 1, gen_random_uuid(), 'shared',"
        " 'dedicated', 5000, -n from generate_series(2, $1::int) n",
        tenants,
    )
    fence = await fences.raise_fence(
        table, tenant_id=TENANT, migration_id=uuid4(), store_id="shared",
        role="source", generation=0, budget_seconds=5.0,
    )  # fmt: skip
    await guard.install(table, fence, TENANT, lambda: True)
    try:
        await connection.execute("delete from events where tenant_id = $1", TENANT)
    except asyncpg.PostgresError as error:
        right(error.sqlstate == "EVF02", f"the guard answers {error.sqlstate}")
    else:
        right(False, "the guard is not there")


async def _free(table: OwnTable) -> None:
    """Take every tenant out of the guard; without any it is gone, once that waits for nobody."""
    connection = table.connection
    async with connection.transaction():
        await connection.execute("delete from eventsource_fences")
        await guard.renew(table)
    await guard.drop_idle(table)
    left = await connection.fetchval(
        "select count(*) from pg_trigger where tgname like 'zzz_eventsource_guard%'"
    )
    right(left == 0, "the guard stays")
