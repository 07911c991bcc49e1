"""P2: the bulk pass into a target that others use: no index may be dropped there.

The target holds half as many events of another tenant, so the positions get an offset. The pipe
beside it is the one of P1, into an empty table: it has less to do.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import bulk, peers
from benchmarks.bench import Bar, Bench
from benchmarks.workload import right, shuffled

BAR = 1.0


async def run(bench: Bench) -> dict[str, Any]:
    product: list[dict[str, Any]] = []
    of_p1 = bench.results.get("P1", {}).get("rounds", {})
    pipes = [run["seconds"] for run in of_p1.get("pipe", [])]
    fresh_pipes = not pipes
    for number in range(bench.rounds):
        for name in shuffled(["product", "pipe"] if fresh_pipes else ["product"], number):
            with bench.timed(f"round {number + 1}: {name}, target in use"):
                if name == "pipe":
                    pipes.append((await bulk.by_hand(bench, "plain", peers.pipe))["seconds"])
                    continue
                seen = await bulk.product(bench, "in_use")
                right(seen["offset"] > 0, "the target was not in use")
                product.append(seen)
    seconds = statistics.median(run["seconds"] for run in product)
    ratio = statistics.median(pipes) / seconds
    bar = Bar("P2", "the same into a target in use: offset, no index deferral",
              f"{bench.scale / seconds:,.0f} events/s, {ratio:.2f} x the pipe of P1",
              f"≥ {BAR:.1f} x", ratio >= BAR)  # fmt: skip
    return {
        "events": bench.scale,
        "seconds": round(seconds, 3),
        "events_per_second": round(bench.scale / seconds),
        "rounds": {"product": product, "pipe": pipes},
        "bars": [bar.as_dict()],
    }
