"""P8 and P9: whole moves at several sizes, their memory and their speed.

The bars are about 1 M and 10 M events. A run compares a tenth of its scale with its scale, so
``--scale 10000000`` is the run that the bars mean; a smaller one is labelled as what it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks import bulk, peers
from benchmarks.bench import Bar, Bench
from benchmarks.workload import build, fingerprint, shuffled

MEMORY_RATIO, MEMORY_MB = 1.2, 200
SPEED_RATIO = 0.9

#: Rounds at the sizes below the scale, which are cheap; at the scale the rounds of P1 serve too.
ROUNDS = 3


#: From here on, peers and sizes that no bar is about are left out: each takes minutes.
LARGE = 5_000_000


def sizes(scale: int) -> list[int]:
    return [scale // 10, *([scale // 3] if scale < LARGE else []), scale]


async def run(bench: Bench) -> dict[str, Any]:
    found: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for events in sizes(bench.scale):
        if events == bench.scale:
            found[events] = await _at_scale(bench)
            continue
        with bench.timed(f"workload A, {events:,} events"):
            dsn = await bench.source.create_database()
            await build(dsn, events)
            expected = await fingerprint(dsn)
        found[events] = await _measure(bench, dsn, expected, min(ROUNDS, bench.rounds))
        await bench.drop(dsn)
    points = [_point(events, seen) for events, seen in found.items()]
    return {
        "sizes": points,
        "rounds": {str(events): seen for events, seen in found.items()},
        "bars": [bar.as_dict() for bar in _bars(points)],
    }


async def _measure(
    bench: Bench, dsn: str, expected: tuple[int, int], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    seen: dict[str, list[dict[str, Any]]] = {"product": []}
    if bench.scale < LARGE:
        seen["pipe"] = []
    for number in range(rounds):
        for name in shuffled(list(seen), number):
            with bench.timed(f"{expected[0]:,} events, round {number + 1}: {name}"):
                if name == "pipe":
                    run = await bulk.by_hand(bench, "plain", peers.pipe, dsn, expected)
                else:
                    run = await bulk.product(bench, "store", dsn, expected, "migrated")
                seen[name].append(run)
    return seen


async def _at_scale(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """One whole move, and the bulk passes and pipes that P1 has timed."""
    rounds = bench.results.get("P1", {}).get("rounds")
    more = 1 if rounds else min(ROUNDS, bench.rounds)
    seen = await _measure(bench, bench.source_dsn, bench.expected, more)
    if rounds:
        for name, runs in seen.items():
            runs.extend(rounds[name])
    return seen


def _point(events: int, seen: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    whole = [run for run in seen["product"] if "pause_ms" in run]
    seconds = {
        name: statistics.median(run["seconds"] for run in runs) for name, runs in seen.items()
    }
    return {
        "events": events,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "events_per_second": {name: round(events / value) for name, value in seconds.items()},
        "pause_ms": round(statistics.median(run["pause_ms"] for run in whole), 1),
        "cutover_with_verification_seconds": round(
            statistics.median(run["cutover_with_verification_seconds"] for run in whole), 3
        ),
        "peak_rss_mb": round(max(run["peak_rss_mb"] for run in whole), 1),
    }


def _bars(points: list[dict[str, Any]]) -> Iterator[Bar]:
    small, large = points[0], points[-1]
    label = f"{large['events']:,} beside {small['events']:,} events"
    rss = large["peak_rss_mb"] / small["peak_rss_mb"]
    yield Bar("P8", f"peak memory of a whole move, {label}",
              f"{large['peak_rss_mb']:.0f} MB, {rss:.2f} x",
              f"≤ {MEMORY_RATIO} x, ≤ {MEMORY_MB} MB",
              rss <= MEMORY_RATIO and large["peak_rss_mb"] <= MEMORY_MB)  # fmt: skip
    rates = [point["events_per_second"]["product"] for point in (small, large)]
    yield Bar("P9", f"events/s of the bulk pass, {label}",
              f"{rates[1]:,} events/s, {rates[1] / rates[0]:.2f} x",
              f"≥ {SPEED_RATIO} x", rates[1] / rates[0] >= SPEED_RATIO)  # fmt: skip
