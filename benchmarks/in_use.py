"""P2: the bulk pass into a target that others use: no index may be dropped there.

The target holds half as many events of another tenant, so the positions get an offset. The pipe
beside it is the one of P1, into an empty table with four indexes: it has less to do. P2R is the
same as servers are run, and timed from the start of the migration.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import bulk, peers
from benchmarks.as_run import described, servers, title
from benchmarks.bench import Bar, Bench
from benchmarks.workload import right, shuffled

BAR = 1.0


async def run(bench: Bench) -> dict[str, Any]:
    of_p1 = bench.results.get("P1", {}).get("rounds", {})
    pipes = [run["seconds"] for run in of_p1.get("pipe", [])]
    what = "the same into a target in use: offset, no index deferral"
    return await _measure(bench, "P2", what, "bulk_seconds", pipes)


async def run_as_run(bench: Bench) -> dict[str, Any]:
    async with servers(bench) as served:
        what = f"{title(bench)}: {bench.scale:,} events into a target in use"
        result = await _measure(served, "P2R", what, "start_to_dual_write_seconds", [])
        return {"servers": described(bench), **result}


async def _measure(
    bench: Bench, name: str, what: str, figure: str, pipes: list[float]
) -> dict[str, Any]:
    """With the seconds of pipes that have run already, or with pipes of its own."""
    product: list[dict[str, Any]] = []
    ways = ["product"] if pipes else ["product", "pipe"]
    for number in range(bench.rounds):
        for way in shuffled(ways, number):
            with bench.timed(f"round {number + 1}: {way}, target in use"):
                if way == "pipe":
                    pipes.append((await bulk.by_hand(bench, "plain", peers.pipe))["seconds"])
                    continue
                seen = await bulk.product(bench, "in_use")
                right(seen["offset"] > 0, "the target was not in use")
                product.append(seen)
    seconds = statistics.median(run[figure] for run in product)
    ratio = statistics.median(pipes) / seconds
    measured = f"{bench.scale / seconds:,.0f} events/s, {ratio:.2f} x the pipe into four indexes"
    bar = Bar(name, what, measured, f"≥ {BAR:.1f} x", ratio >= BAR)
    return {
        "events": bench.scale,
        "seconds": round(seconds, 3),
        "events_per_second": round(bench.scale / seconds),
        "rounds": {"product": product, "pipe": pipes},
        "bars": [bar.as_dict()],
    }
