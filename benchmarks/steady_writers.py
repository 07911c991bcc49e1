"""P13: a tenant that writes 5,000 events a second, and no router mirrors any of them.

Its writers insert many rows with one statement, by SQL. They write from before the migration until
after its cutover, and go on at the target once the source answers that the tenant has moved. The
servers are set up as servers are run, and the target is in use.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from benchmarks.as_run import cleaned, described, servers, title
from benchmarks.bench import Bar, Bench
from benchmarks.cutover import pause_of
from benchmarks.move import Process, process
from benchmarks.workload import TENANT, fingerprint, mapping_fingerprint, right, write_more
from eventsource.migration import CutoverTimeoutError
from eventsource.sqlstates import MOVED, sqlstate_of

EVENTS_A_SECOND, TASKS, A_STATEMENT = 5_000, 4, 50

#: What writers on a busy machine may stay below that: they are late now and then.
REACHED = 0.98

#: Seconds of writing in dual-write before the cutover, and after it; how long it may take.
NORMAL, AFTERWARDS, LONGEST = 5.0, 1.0, 300.0

#: Whose events they are, by the store they were written to.
AT_SOURCE, AT_TARGET = "steady", "moved"

Seen = dict[str, Any]


@dataclass(slots=True)
class Writers:
    """Tasks of an application; ``written`` are the events of each store that were answered."""

    dsns: dict[str, str]
    written: dict[str, int] = field(default_factory=lambda: {AT_SOURCE: 0, AT_TARGET: 0})
    longest: float = 0.0
    stopping: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(self._write())

    async def _write(self) -> None:
        connections = {name: await asyncpg.connect(dsn) for name, dsn in self.dsns.items()}
        store, due = AT_SOURCE, time.monotonic()
        try:
            while not self.stopping:
                began = time.monotonic()
                try:
                    await write_more(connections[store], TENANT, A_STATEMENT, actor=store)
                except asyncpg.PostgresError as error:
                    if store == AT_TARGET or sqlstate_of(error) != MOVED:
                        raise
                    store = AT_TARGET
                    await write_more(connections[store], TENANT, A_STATEMENT, actor=store)
                self.written[store] += A_STATEMENT
                self.longest = max(self.longest, time.monotonic() - began)
                # One that is late makes up for it: what has waited is written as well.
                due += A_STATEMENT * TASKS / EVENTS_A_SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await asyncio.gather(*(connection.close() for connection in connections.values()))


async def run(bench: Bench) -> dict[str, Any]:
    seen = []
    async with servers(bench) as served:
        for number in range(bench.rounds):
            with bench.timed(f"round {number + 1}"):
                seen.append(await _one(served))
    return {
        "servers": described(bench),
        "rounds": seen,
        "bars": [_bar(title(bench), bench.scale, seen).as_dict()],
    }


async def _one(bench: Bench) -> Seen:
    target_dsn, control_dsn = await bench.database("in_use"), await bench.database("control")
    try:
        async with cleaned(bench):
            await bench.settle()
            writers = Writers({AT_SOURCE: bench.source_dsn, AT_TARGET: target_dsn})
            async with asyncio.TaskGroup() as group:
                group.create_task(writers.run())
                try:
                    async with process(bench.source_dsn, target_dsn, control_dsn) as opened:
                        seen = await _move(opened, writers)
                finally:
                    writers.stopping = True
            await _check(bench.source_dsn, target_dsn, control_dsn, writers, seen)
            return seen
    finally:
        await bench.drop(target_dsn)
        await bench.drop(control_dsn)


async def _move(opened: Process, writers: Writers) -> Seen:
    began = time.monotonic()
    migration = await opened.copied()
    copied = time.monotonic() - began
    written, since = writers.written[AT_SOURCE], time.monotonic()
    lags = []
    while time.monotonic() < since + NORMAL:
        lags.append(await opened.coordinator.get_sync_lag(migration.id))
        await asyncio.sleep(0.25)
    writers.longest, asked = 0.0, time.monotonic()
    seen: Seen = {
        "copied_seconds": copied,
        "events_a_second": (writers.written[AT_SOURCE] - written) / (asked - since),
        "lags": lags,
        "offset": migration.position_offset,
    }
    try:
        async with asyncio.timeout(LONGEST):
            done = await opened.coordinator.initiate_cutover(migration.id)
    except (CutoverTimeoutError, TimeoutError) as error:
        return {**seen, "attempts": None, "refused": f"{type(error).__name__}: {error}"}
    seen["cutover_seconds"] = time.monotonic() - asked
    seen["pause_ms"], seen["attempts"] = await pause_of(opened, done)
    await asyncio.sleep(AFTERWARDS)
    return {**seen, "longest_ms": writers.longest * 1000}


async def _check(
    source_dsn: str, target_dsn: str, control_dsn: str, writers: Writers, seen: Seen
) -> None:
    """Every event that was answered is where the tenant lives, and each column is as it was."""
    written = writers.written[AT_SOURCE]
    right(
        await _count(source_dsn, AT_SOURCE) == written, "the source has other events than written"
    )
    if seen["attempts"] is None:
        return
    there = await _count(target_dsn, AT_TARGET)
    right(there == writers.written[AT_TARGET] > 0, "the target has other events than written")
    offset = seen["offset"]
    moved = await fingerprint(target_dsn, offset=offset, where=f"actor_id <> '{AT_TARGET}'")
    right(moved == await fingerprint(source_dsn), "the move carried wrongly")
    mapping = await mapping_fingerprint(control_dsn, mapped=True)
    wanted = await mapping_fingerprint(source_dsn, mapped=False, offset=offset)
    right(mapping == wanted, "the move mapped wrongly")


async def _count(dsn: str, actor: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(
            await connection.fetchval(
                "select count(*) from events where tenant_id = $1 and actor_id = $2", TENANT, actor
            )
        )
    finally:
        await connection.close()


def _bar(where: str, scale: int, seen: Sequence[Seen]) -> Bar:
    first = sum(run["attempts"] == 1 for run in seen)
    rate = statistics.median(run["events_a_second"] for run in seen)
    lags = [lag for run in seen for lag in run["lags"]]
    measured = (
        f"{rate:,.0f} events/s; lag {statistics.median(lags):,.0f} events, {max(lags):,} at most;"
        f" first try in {first} of {len(seen)}"
    )
    done = [run for run in seen if run["attempts"] is not None]
    if done:
        pause, longest, cutover = (
            statistics.median(run[name] for run in done)
            for name in ("pause_ms", "longest_ms", "cutover_seconds")
        )
        measured += (
            f", {cutover:.1f} s from asking, pause {pause:.0f} ms, longest statement"
            f" {longest:.0f} ms"
        )
    met = first == len(seen) and rate >= REACHED * EVENTS_A_SECOND
    what = f"{where}: a tenant of {scale:,} events that writes {EVENTS_A_SECOND:,} a second by SQL"
    return Bar("P13", what, measured, "caught up, cut over at the first try", met)
