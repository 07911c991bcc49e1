"""P9: what a catch-up pass costs depends on what is new, not on how large the tenant is."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.bench import Bar, Bench
from benchmarks.passes import catching_up
from benchmarks.workload import build, fingerprint, right

#: New events of one pass.
DELTAS = (0, 1000, 10_000)

#: The bar gives no number for "equal": half as much again is more than the noise.
EQUAL = 1.5


async def _measure(bench: Bench, source_dsn: str) -> dict[int, list[float]]:
    """Seconds of passes, by the number of events in them."""
    seen: dict[int, list[float]] = {delta: [] for delta in DELTAS}
    before = await fingerprint(source_dsn)
    async with catching_up(bench, source_dsn) as passes:
        await passes.timed(DELTAS[1])
        for number in range(bench.rounds):
            with bench.timed(f"round {number + 1}: passes of {', '.join(map(str, DELTAS))} events"):
                for delta in DELTAS:
                    seen[delta].append(await passes.timed(delta))
    right(await fingerprint(source_dsn) == before, "the workload is not what it was")
    return seen


async def run(bench: Bench) -> dict[str, Any]:
    small = bench.scale // 10
    small_dsn = await bench.source.create_database()
    await build(small_dsn, small)
    seen = {small: await _measure(bench, small_dsn)}
    await bench.drop(small_dsn)
    seen[bench.scale] = await _measure(bench, bench.source_dsn)
    medians = {
        size: {delta: statistics.median(values) * 1000 for delta, values in deltas.items()}
        for size, deltas in seen.items()
    }
    return {
        "milliseconds": {
            str(size): {str(delta): round(value, 2) for delta, value in deltas.items()}
            for size, deltas in medians.items()
        },
        "rounds": {
            str(size): {str(delta): values for delta, values in deltas.items()}
            for size, deltas in seen.items()
        },
        "bars": [bar.as_dict() for bar in _bars(small, bench.scale, medians)],
    }


def _bars(small: int, large: int, medians: dict[int, dict[int, float]]) -> list[Bar]:
    ratio = max(medians[large][delta] / medians[small][delta] for delta in DELTAS)
    nothing, some, many = (medians[large][delta] for delta in DELTAS)
    times = DELTAS[2] / DELTAS[1]
    growth = (many - nothing) / max(some - nothing, 1e-9)
    return [
        Bar("P9", f"a pass of d new events, {large:,} beside {small:,} events",
            f"d = 0 {nothing:.0f} ms, {DELTAS[1]:,} {some:.0f} ms, {DELTAS[2]:,} {many:.0f} ms;"
            f" at most {ratio:.2f} x the time at the smaller size",
            f"equal (≤ {EQUAL} x)", ratio <= EQUAL),
        Bar("P9", f"a pass of {times:.0f} times the new events",
            f"{growth:.1f} x the time beyond an empty pass", f"≤ {times * EQUAL:.0f} x",
            growth <= times * EQUAL),
    ]  # fmt: skip
