"""INDEX-COPY: what each index costs a copy into a table in use, and removing it again.

No bar is about it, so it runs only when asked for: ``--only INDEX-COPY``. Each way has a database
of its own with workload A. The same events of another tenant are copied into each in turn, in
transactions of a chunk, and deleted, as an abort does; then vacuum clears them away.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import fifth_index_ways
from benchmarks.bench import Bar, Bench
from benchmarks.fifth_index_ways import WAYS, Way
from benchmarks.processors import used_by
from benchmarks.workload import CARRIED, SETTLED, TENANT, right, shuffled
from eventsource.migration import MigrationConfig

CHUNK = MigrationConfig().chunk_rows

STEPS = ("copy", "delete", "vacuum")

# Positions as a copy carries them: above all that is there, in a reserved block.
_CHUNK_OF_ANOTHER = """
select global_position + 100000000, gen_random_uuid(), md5('settled' || aggregate_id)::uuid,
       aggregate_type, event_type, '{tenant}'::uuid, version, "timestamp", actor_id, payload,
       metadata, created_at
from events where tenant_id = '{source}' order by global_position limit {limit} offset {offset}
"""

#: What a pass gives a row at a target that stamps only rows of tenants that move.
_STAMPED = "alter table events alter column transaction_id set default pg_current_xact_id()"

Figures = dict[str, dict[str, list[float]]]


async def run(bench: Bench) -> dict[str, Any]:
    seen: dict[str, Figures] = {name: {step: {} for step in STEPS} for name in WAYS}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chunks = await _chunks(bench, folder)
        places = {}
        for name, way in WAYS.items():
            dsn = await bench.workload_copy()
            stack.push_async_callback(bench.drop, dsn)
            places[name] = connection = await asyncpg.connect(dsn)
            stack.push_async_callback(connection.close)
            await fifth_index_ways.install(connection, way)
        for number in range(bench.rounds):
            for name in shuffled(list(places), number):
                with bench.timed(f"round {number + 1}: {name}"):
                    await _round(bench, places[name], WAYS[name], chunks, seen[name])
    return {"rounds": seen, "bars": [bar.as_dict() for bar in _bars(seen)]}


async def _chunks(bench: Bench, folder: Path) -> list[Path]:
    """The events of a tenant as files of a chunk each, a quarter of workload A."""
    connection = await asyncpg.connect(bench.source_dsn)
    wanted = max(bench.scale // 4, 1)
    files = []
    try:
        for offset in range(0, wanted, CHUNK):
            files.append(folder / str(offset))
            query = _CHUNK_OF_ANOTHER.format(
                tenant=SETTLED, source=TENANT, limit=min(CHUNK, wanted - offset), offset=offset
            )
            await connection.copy_from_query(query, output=files[-1], format="binary")
    finally:
        await connection.close()
    return files


async def _round(
    bench: Bench, connection: asyncpg.Connection, way: Way, chunks: list[Path], seen: Figures
) -> None:
    columns = [name.strip().strip('"') for name in CARRIED.split(",")]
    count = f"select count(*) from events where tenant_id = '{SETTLED}'"
    expected = max(bench.scale // 4, 1)

    async def copy() -> None:
        for chunk in chunks:
            await connection.copy_to_table("events", source=chunk, columns=columns, format="binary")

    async def delete() -> None:
        await connection.execute("delete from events where tenant_id = $1", SETTLED)

    async def vacuum() -> None:
        await connection.execute("vacuum (parallel 0) events")

    await connection.execute("set jit = off")
    if way.stamps:
        await connection.execute(_STAMPED)
    for step, work in zip(STEPS, (copy, delete, vacuum), strict=True):
        await bench.settle()
        await _measured(bench, connection, work, expected, seen[step])
        if step == "copy":
            await fifth_index_ways.summarize(connection, way)
            right(await connection.fetchval(count) == expected, "the copy is not whole")
    right(await connection.fetchval(count) == 0, "something is left")


async def _measured(
    bench: Bench, connection: asyncpg.Connection, work: Any, rows: int, seen: dict[str, list[float]]
) -> None:
    """Seconds, processor µs and bytes of WAL of a row."""
    server = [bench.source.postmaster_pid]
    position = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"
    before, spent, began = await connection.fetchval(position), used_by(server), time.monotonic()
    await work()
    for name, value in (
        ("seconds", time.monotonic() - began),
        ("µs", (used_by(server) - spent) * 1e6 / rows),
        ("WAL", (await connection.fetchval(position) - before) / rows),
    ):
        seen.setdefault(name, []).append(value)


def _bars(seen: dict[str, Figures]) -> list[Bar]:
    lines = []
    for step in STEPS:
        parts = []
        for name, figures in seen.items():
            pairs = zip(figures[step]["seconds"], seen["none"][step]["seconds"], strict=True)
            times = statistics.median(mine / its for mine, its in pairs)
            spent = sum(figures[step]["µs"]) / (sum(seen["none"][step]["µs"]) or 1e-9)
            wal = statistics.median(figures[step]["WAL"])
            parts.append(f"{name} {times:.2f} x (processor {spent:.2f} x, {wal:,.0f} bytes of WAL)")
        what = f"{step} of a tenant's rows in a table in use: time beside no index, WAL of a row"
        lines.append(Bar("", what, "; ".join(parts), "", None))
    return lines
