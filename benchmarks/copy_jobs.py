"""JOBS: the bulk pass with more and fewer connections (`MigrationConfig.copy_jobs`).

No bar is about it, so it runs only when asked for: ``--only JOBS``.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import bulk
from benchmarks.bench import Bar, Bench
from benchmarks.workload import shuffled
from eventsource.migration import MigrationConfig

#: Into an empty target, whose indexes are built behind the copy, and into one in use.
KINDS = {"store": "an empty target", "in_use": "a target in use"}

JOBS = (1, 2, 3, 4, 6)


async def run(bench: Bench) -> dict[str, Any]:
    ways = {f"{kind} {jobs}": (kind, jobs) for kind in KINDS for jobs in JOBS}
    seen: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(bench.rounds):
        for way in shuffled(list(ways), number):
            kind, jobs = ways[way]
            with bench.timed(f"round {number + 1}: {jobs} jobs, {KINDS[kind]}"):
                move = await bulk.product(bench, kind, copy_jobs=jobs)
                seen[way].append(move["seconds"])
    usual = MigrationConfig().copy_jobs
    bars = []
    for kind, title in KINDS.items():
        seconds = {jobs: statistics.median(seen[f"{kind} {jobs}"]) for jobs in JOBS}
        told = ", ".join(f"{jobs}: {seconds[usual] / seconds[jobs]:.2f} x" for jobs in JOBS)
        what = f"copy_jobs into {title}, beside the default of {usual}"
        bars.append(Bar("", what, told, "", None))
    return {
        "events": bench.scale,
        "rounds": seen,
        "bars": [bar.as_dict() for bar in bars],
    }
