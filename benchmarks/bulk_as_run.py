"""P1 as servers are run: a copy into an empty table from its start to its proof, at several sizes.

Settings and versions are those of `as_run`. One database of the target is used again and again,
truncated between runs, with the five indexes of the product's table for every peer. The product is
timed from `start_migration` to the state `dual_write`, so preflight, connections, guard, mapping,
digests, index builds and proof count; the peers from their first process or statement to their
last. Once more the product with `position_mapping = "offset"`, where the mapping is no row for each
event. Beside each time stand its processor seconds, of the two servers and of the program that
copies: on two cores no copy takes less than half of them.

Each size is measured with two workloads: streams under random ids spread over the table, and
streams that lie together under ascending ids, where maintaining an index is cheap.
"""

from __future__ import annotations

import contextlib
import resource
import statistics
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg

from benchmarks import bulk, logical, peers
from benchmarks.as_run import described, servers, title
from benchmarks.bench import Bar, Bench, forget
from benchmarks.processors import used_by
from benchmarks.workload import Streams, fingerprint, right, shuffled

#: What is asked for at each number of events, beside the pipe and logical replication.
BARS: dict[Streams, dict[int, float]] = {
    Streams.SPREAD: {50_000: 1.0, 200_000: 1.3, 1_000_000: 1.6},
    Streams.TOGETHER: {1_000_000: 1.2},
}
SIZES = (50_000, 200_000, 400_000, 1_000_000)

WHERE = {
    Streams.SPREAD: "streams under random ids, spread over the table",
    Streams.TOGETHER: "streams that lie together under ascending ids",
}

Seen = dict[str, float]


async def run(bench: Bench) -> dict[str, Any]:
    sizes = [size for size in SIZES if size <= bench.scale] or [bench.scale]
    found: dict[str, dict[str, list[Seen]]] = {}
    bars = []
    for streams in Streams:
        for size in sizes:
            async with servers(bench, size, streams) as served:
                runs = await _measure(served, streams)
            found[f"{streams.value} {size}"] = runs
            bars.append(_bar(title(bench), streams, size, runs).as_dict())
    return {"servers": described(bench), "rounds": found, "bars": bars}


async def _measure(bench: Bench, streams: Streams) -> dict[str, list[Seen]]:
    target_dsn = await bench.database("store")
    ways: dict[str, Callable[[Bench, str], Awaitable[Seen]]] = {
        "product": _product, "offset": _offset, "pipe": _pipe, "logical": _logical,
    }  # fmt: skip
    seen: dict[str, list[Seen]] = {name: [] for name in ways}
    what = f"{bench.scale:,} events, {streams.value}"
    with bench.timed(f"{what}, first run"):
        # The log's files and the table's are there afterwards, as on a server that is in use.
        await _one(bench, target_dsn, _pipe)
    for number in range(bench.rounds):
        for name in shuffled(list(ways), number):
            with bench.timed(f"{what}, round {number + 1}: {name}"):
                seen[name].append(await _one(bench, target_dsn, ways[name]))
    return seen


async def _one(bench: Bench, target_dsn: str, way: Callable[[Bench, str], Awaitable[Seen]]) -> Seen:
    await bench.settle()
    try:
        return await way(bench, target_dsn)
    finally:
        await forget(target_dsn)
        connection = await asyncpg.connect(target_dsn)
        await connection.execute("truncate events restart identity")
        await connection.close()


async def _product(bench: Bench, target_dsn: str) -> Seen:
    return await _moved(bench, target_dsn, mapping="rows")


async def _offset(bench: Bench, target_dsn: str) -> Seen:
    return await _moved(bench, target_dsn, mapping="offset")


async def _moved(bench: Bench, target_dsn: str, mapping: str) -> Seen:
    control_dsn = await bench.database("control")
    try:
        with _charged(bench) as spent:
            seen = await bench.move(
                bench.source_dsn, target_dsn, control_dsn, position_mapping=mapping
            )
        rows = mapping == "rows"
        await bulk.check(
            bench.source_dsn, target_dsn, control_dsn, seen["offset"], bench.expected, mapped=rows
        )
        return {
            "seconds": seen["start_to_dual_write_seconds"],
            "bulk_seconds": seen["bulk_seconds"],
            "peak_rss_mb": seen["peak_rss_mb"],
            # Without the start of an interpreter: a coordinator is in a process that runs.
            "processor_seconds": spent["servers"] + seen["processor_seconds"],
        }
    finally:
        await forget(bench.source_dsn)
        await bench.drop(control_dsn)


async def _pipe(bench: Bench, target_dsn: str) -> Seen:
    with _charged(bench) as spent:
        seconds = await peers.pipe(bench, bench.source_dsn, target_dsn)
    right(await fingerprint(target_dsn) == bench.expected, "the pipe copied wrongly")
    return {"seconds": seconds, "processor_seconds": spent["servers"] + spent["programs"]}


async def _logical(bench: Bench, target_dsn: str) -> Seen:
    async with contextlib.AsyncExitStack() as until_checked:
        with _charged(bench) as spent:
            copied = logical.subscribed(bench.source_dsn, target_dsn)
            seconds = await until_checked.enter_async_context(copied)
        right(await fingerprint(target_dsn) == bench.expected, "the subscription copied wrongly")
    return {"seconds": seconds, "processor_seconds": spent["servers"]}


@contextlib.contextmanager
def _charged(bench: Bench) -> Iterator[Seen]:
    """Processor seconds of both servers, and of the programs that have ended meanwhile."""
    servers = [bench.source.postmaster_pid, bench.target.postmaster_pid]
    spent: Seen = {}
    before, programs = used_by(servers), _programs()
    yield spent
    spent |= {"servers": used_by(servers) - before, "programs": _programs() - programs}


def _programs() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _bar(where: str, streams: Streams, size: int, runs: dict[str, list[Seen]]) -> Bar:
    seconds, used = (
        {name: statistics.median(run[what] for run in seen) for name, seen in runs.items()}
        for what in ("seconds", "processor_seconds")
    )
    rate = {name: size / value for name, value in seconds.items()}
    pipe, copy = (seconds[name] / seconds["product"] for name in ("pipe", "logical"))
    least = BARS[streams].get(size)
    measured = (
        f"{rate['product']:,.0f} events/s, {pipe:.2f} x the pipe ({rate['pipe']:,.0f}),"
        f" {copy:.2f} x logical replication's first copy ({rate['logical']:,.0f});"
        f" {rate['offset']:,.0f} with an offset in place of mapping rows; processor seconds"
        f" {used['product']:.2f}, {used['pipe']:.2f}, {used['logical']:.2f}, {used['offset']:.2f}"
    )
    what = f"{where}: {size:,} events, {WHERE[streams]}"
    if least is None:
        return Bar("", what, measured, "", None)
    return Bar("P1R", what, measured, f"≥ {least:.1f} x both", min(pipe, copy) >= least)
