"""INDEX-PASSES: what passes read along each index, and how long it takes to build.

No bar is about it, so it runs only when asked for: ``--only INDEX-PASSES``. All ways read the same
rows of one table, one index at a time. A pass reads a difference of two snapshots, which is a
value: it can be read again and again, along any index.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks import fifth_index_ways
from benchmarks.bench import Bar, Bench
from benchmarks.fifth_index_ways import WAYS, Way
from benchmarks.workload import (
    OTHER,
    TENANT,
    drop_fifth_index,
    right,
    shuffled,
    write_more,
)
from eventsource.migration import MigrationConfig

CHUNK = MigrationConfig().chunk_rows

_SNAPSHOT = "select pg_current_snapshot()::text"

#: A scan of everything says what a pass has to read.
_EXPECTED = """
select transaction_id::text::bigint as id, global_position as position
from events where tenant_id = $1 and transaction_id is not null
  and not pg_visible_in_snapshot(transaction_id, $2::text::pg_snapshot)
  and pg_visible_in_snapshot(transaction_id, $3::text::pg_snapshot)
order by transaction_id, global_position
"""

#: In a partial index of stamped rows a pass reads what it reads in the whole one.
READ = {name: way for name, way in WAYS.items() if not way.stamps}


@dataclass(frozen=True, slots=True)
class Pass:
    """From one snapshot to the next; ``rows`` are (transaction id, position), in order."""

    title: str
    previous: str
    upper: str
    rows: list[tuple[int, int]]

    def chunks(self, way: Way) -> list[str]:
        """The statements that a driver would send, the last of them finding fewer than it asks."""
        ends: list[tuple[int, int] | None] = [None, *self.rows[CHUNK - 1 :: CHUNK]]
        return [
            fifth_index_ways.statement(way, self.previous, self.upper, end, CHUNK, TENANT)
            for end in ends
        ]


@dataclass(slots=True)
class Scene:
    """The table, and what was found so far by pass and way."""

    bench: Bench
    connection: asyncpg.Connection
    passes: dict[str, dict[str, Any]]
    builds: dict[str, list[float]]

    async def wrote(self, title: str, tenant: Any, events: int, per_commit: int = 50) -> Pass:
        """A pass over so many new events of the tenant, and over what ``title`` says besides."""
        previous = await self.connection.fetchval(_SNAPSHOT)
        return await self.since(previous, title, tenant, events, per_commit)

    async def since(
        self, previous: str, title: str, tenant: Any, events: int, per_commit: int = 50
    ) -> Pass:
        await write_more(self.connection, tenant, events, per_commit)
        upper = await self.connection.fetchval(_SNAPSHOT)
        found = await self.connection.fetch(_EXPECTED, TENANT, previous, upper)
        right(len(found) == events, f"{title}: {len(found)} rows of {events}")
        return Pass(title, previous, upper, [tuple(row) for row in found])

    async def read(self, passes: list[Pass], seed: int) -> None:
        """Every way reads all of them, each with its index in the place of the one before."""
        await self.connection.execute("analyze events")
        for name in shuffled(list(READ), seed):
            with self.bench.timed(f"{passes[0].title} …: {name}"):
                await self._by(name, passes)

    async def _by(self, name: str, passes: list[Pass]) -> None:
        way, connection = READ[name], self.connection
        self.builds[name].append(await fifth_index_ways.build(connection, way))
        await fifth_index_ways.plan_like_a_pass(connection, way)
        for each in passes:
            statements = each.chunks(way)
            found = [row for one in statements for row in await connection.fetch(one)]
            pairs = [(int(row["number"]), int(row["global_position"])) for row in found]
            right(pairs == each.rows, f"{name}: {each.title}: {len(pairs)} rows were read")
            plans = [await _plan(connection, one) for one in statements]
            seconds = [await _timed(connection, statements) for _ in range(self.bench.rounds)]
            self.passes.setdefault(each.title, {})[name] = {
                "milliseconds": statistics.median(seconds) * 1000,
                "pages": sum(plan[0] for plan in plans),
                "along": any(plan[1] for plan in plans),
            }
        await connection.execute("reset all; set synchronous_commit = off")
        await fifth_index_ways.drop(connection)


async def _plan(connection: asyncpg.Connection, sql: str) -> tuple[int, bool]:
    """(Pages that it reads, whether along the way's index)."""
    text = await connection.fetchval(f"explain (analyze, buffers, timing off, format json) {sql}")
    root = json.loads(text)[0]["Plan"]
    pages = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return pages, f'"{fifth_index_ways.NAME}"' in text


async def _timed(connection: asyncpg.Connection, statements: list[str]) -> float:
    """Seconds of reading all chunks as a pass does, their bytes thrown away."""

    async def nowhere(_: bytes) -> None: ...

    began = time.monotonic()
    for sql in statements:
        await connection.copy_from_query(sql, output=nowhere, format="binary")
    return time.monotonic() - began


async def run(bench: Bench) -> dict[str, Any]:
    dsn = await bench.workload_copy()
    connection, foreign = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    scene = Scene(bench, connection, {}, {name: [] for name in READ})
    try:
        await drop_fifth_index(connection)
        await connection.execute("set synchronous_commit = off")
        await _as_written(scene)
        await _refilled(scene, foreign)
    finally:
        await foreign.close()
        await connection.close()
        await bench.drop(dsn)
    return {
        "events": 2 * bench.scale,
        "passes": scene.passes,
        "build seconds": {name: statistics.median(all_) for name, all_ in scene.builds.items()},
        "bars": [bar.as_dict() for bar in _bars(scene)],
    }


async def _as_written(scene: Scene) -> None:
    """In a table whose rows lie in the order in which they were written."""
    few, many, burst = _deltas(scene)
    passes = [await scene.wrote(f"{count:,} new events", TENANT, count) for count in (0, few, many)]
    await scene.read(passes, 0)
    previous = await scene.connection.fetchval(_SNAPSHOT)
    await fifth_index_ways.write_singly(scene.connection, OTHER, burst)
    quiet = await scene.since(previous, f"none among {burst:,} of others", TENANT, 0)
    beside = await scene.since(previous, f"{few:,} among {burst:,} of others", TENANT, few)
    at_once = await scene.wrote(f"{burst:,} of one transaction", TENANT, burst, burst)
    await scene.read([quiet, beside, at_once], 1)


async def _refilled(scene: Scene, foreign: asyncpg.Connection) -> None:
    """New rows fill the places of deleted ones, all over the table."""
    few, many, burst = _deltas(scene)
    connection = scene.connection
    await connection.execute(
        "delete from events where tenant_id = $1 and global_position % 3 = 0", OTHER
    )
    await connection.execute("vacuum events")
    for number, count in enumerate((few, many)):
        title = f"{count:,} in old places"
        await scene.read([await scene.wrote(title, TENANT, count)], 2 + number)
    await foreign.execute("begin")
    await write_more(foreign, OTHER, 1)
    await write_more(connection, OTHER, burst)
    title = f"{few:,} in old places beside an old transaction"
    beside = await scene.wrote(title, TENANT, few)
    # Building an index waits for it. The snapshots say that it was running.
    await foreign.execute("rollback")
    await scene.read([beside], 4)


def _deltas(scene: Scene) -> tuple[int, int, int]:
    """1,000, 10,000 and 100,000 from 500,000 events of each tenant on, fewer below."""
    many = min(10_000, max(scene.bench.scale // 50, 20))
    return many // 10, many, many * 10


def _bars(scene: Scene) -> list[Bar]:
    lines = []
    for title, ways in scene.passes.items():
        parts = [
            f"{name} {seen['milliseconds']:.1f} ms, {seen['pages']:,} pages"
            + ("" if seen["along"] or name == "none" else " (along another index)")
            for name, seen in ways.items()
        ]
        lines.append(Bar("", f"reading a pass: {title}", "; ".join(sorted(parts)), "", None))
    whole = statistics.median(scene.builds["whole"])
    parts = [
        f"{name} {statistics.median(seen) / whole:.2f} x" for name, seen in scene.builds.items()
    ]
    what = f"time to build an index, beside {whole:.2f} s of the whole one"
    return [*lines, Bar("", what, "; ".join(parts), "", None)]
