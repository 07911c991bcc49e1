"""P11: an old transaction that has nothing to do with the tenant stays open at the source.

What makes such a transaction old is what was written since it began, not the clock: a tenth of the
tenant's events are written and carried while it is open, then the passes are timed as before.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import asyncpg

from benchmarks.bench import Bar, Bench
from benchmarks.passes import CatchUp, catching_up
from benchmarks.workload import OTHER, TENANT, right, write_more

DELTA = 500

#: "Neither lag nor pass time": the lag exactly, the time within what repeated passes differ by.
NOISE = 1.15


async def _block(passes: CatchUp, rounds: int) -> dict[str, list[float]]:
    """Seconds of passes over DELTA events and of asking for the lag before them."""
    seen: dict[str, list[float]] = {"pass": [], "lag": []}
    for _ in range(rounds):
        await write_more(passes.source, TENANT, DELTA)
        began = time.monotonic()
        found = await passes.lag()
        seen["lag"].append(time.monotonic() - began)
        right(found == DELTA, f"the lag is {found} where {DELTA} events are new")
        began = time.monotonic()
        result = await passes.passes.catch_up()
        seen["pass"].append(time.monotonic() - began)
        right(result is not None and result.inserted == DELTA, "the pass did not carry them all")
    return seen


async def run(bench: Bench) -> dict[str, Any]:
    rounds = 4 * bench.rounds
    aged = bench.scale // 10
    seen: dict[str, dict[str, list[float]]] = {}
    async with catching_up(bench, bench.source_dsn) as passes:
        # As much has been written in both cases.
        with bench.timed(f"{aged:,} events before"):
            await passes.timed(aged)
        with bench.timed(f"{rounds} passes without a foreign transaction"):
            seen["without"] = await _block(passes, rounds)
        foreign = await asyncpg.connect(bench.source_dsn)
        await foreign.execute("begin")
        await write_more(foreign, OTHER, 1)
        with bench.timed(f"{aged:,} events beside an open transaction"):
            await passes.timed(aged)
        with bench.timed(f"{rounds} passes beside it"):
            seen["beside"] = await _block(passes, rounds)
        await foreign.execute("rollback")
        await foreign.close()
        with bench.timed(f"{rounds} passes after its end"):
            after = await _block(passes, rounds)
        for name, values in after.items():
            seen["without"][name] += values
    medians = {
        case: {name: statistics.median(values) * 1000 for name, values in figures.items()}
        for case, figures in seen.items()
    }
    ratio = {name: medians["beside"][name] / medians["without"][name] for name in ("pass", "lag")}
    bar = Bar(
        "P11",
        f"a pass of {DELTA} events beside a foreign transaction {aged:,} events old",
        f"{medians['beside']['pass']:.1f} ms, {ratio['pass']:.2f} x without it; lag exact,"
        f" {ratio['lag']:.2f} x the time to ask",
        f"no change (≤ {NOISE} x)",
        ratio["pass"] <= NOISE,
    )
    return {"milliseconds": medians, "rounds": seen, "bars": [bar.as_dict()]}
