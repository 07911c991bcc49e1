"""The profile that belongs to a figure: one more run of it under Linux's sampling profiler.

Which process used the processors is in `processors`; this tells by which functions. The runs that
are measured go without it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import bulk, peers
from benchmarks.bench import Bench, run

#: Functions below this share of all samples are left out.
LEAST_PERCENT = 0.5

PROFILES: dict[str, Callable[[Bench], Awaitable[object]]] = {
    "P1": bulk.product,
    "P1-pipe": lambda bench: bulk.by_hand(bench, "plain", peers.pipe),
    "P2": lambda bench: bulk.product(bench, "in_use"),
}


async def write(bench: Bench, out: Path) -> None:
    """Leave a ``profile-*.txt`` for each."""
    for name, work in PROFILES.items():
        with bench.timed(f"profile of {name}"), tempfile.NamedTemporaryFile() as samples:
            bench.samples = samples.name
            try:
                await work(bench)
            finally:
                bench.samples = ""
            report = ["perf", "report", "--stdio", "--fields", "overhead,comm,dso,symbol"]
            limit = ["--percent-limit", str(LEAST_PERCENT), "-i", samples.name]
            lines = (await run([*report, *limit])).splitlines()
            shown = [line.rstrip() for line in lines if line.strip() and "swapper" not in line]
            (out / f"profile-{name}.txt").write_text("\n".join(shown) + "\n")
