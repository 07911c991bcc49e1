"""P3: beside eventsource-py 0.8.1, the library that moves tenants in Python.

It comes from PyPI into an environment of its own and runs on its own store and schema. It gets the
first events of workload A only, because it takes long: more of them would not make it faster.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import bulk
from benchmarks.bench import ROOT, Bar, Bench
from benchmarks.bench import run as run_program
from benchmarks.workload import EVENTS_PER_STREAM, right

VERSION = "0.8.1"
BARS = {"batched": 75, "default": 500}
MOST_EVENTS = {"batched": 6_000, "default": 4_000}
MOST_ROUNDS = 3
TITLES = {
    "batched": f"eventsource-py {VERSION}, batched copy without mapping",
    "default": f"eventsource-py {VERSION}, its default: event by event with mapping",
}
DRIVER = Path(__file__).with_name("library_driver.py")


async def environment() -> Path:
    """The library's Python; made on first use, kept below the build directory."""
    where = ROOT / "target" / "benchmarks" / f"eventsource-py-{VERSION}"
    python = where / "bin" / "python"
    if not (where / "complete").exists():
        await run_program([sys.executable, "-m", "venv", "--clear", str(where)])
        # SQLAlchemy's asyncio part needs greenlet and no longer asks for it by itself.
        wanted = [f"eventsource-py[postgresql]=={VERSION}", "greenlet"]
        await run_program([str(python), "-m", "pip", "install", "--quiet", *wanted])
        (where / "complete").touch()
    return python


async def copy(bench: Bench, python: Path, mode: str, events: int) -> dict[str, Any]:
    """One bulk copy by the library between two fresh databases; it checks its answer itself."""
    source = await bench.source.create_database()
    target = await bench.target.create_database()
    streams = max(bench.scale // EVENTS_PER_STREAM, 1)
    command = [str(python), "-I", str(DRIVER), source, target, mode, str(events), str(streams)]
    try:
        await bench.settle()
        seen = json.loads((await run_program(command)).splitlines()[-1])
        right(seen["right"], f"eventsource-py copied wrongly: {seen}")
        return dict(seen)
    finally:
        await asyncio.gather(bench.drop(source), bench.drop(target))


async def run(bench: Bench) -> dict[str, Any]:
    with bench.timed("eventsource-py's environment"):
        python = await environment()
    events = {mode: min(most, bench.scale) for mode, most in MOST_EVENTS.items()}
    seen: dict[str, list[dict[str, Any]]] = {mode: [] for mode in BARS}
    for number in range(min(bench.rounds, MOST_ROUNDS)):
        for mode in BARS:
            with bench.timed(f"round {number + 1}: {mode}, {events[mode]:,} events"):
                seen[mode].append(await copy(bench, python, mode, events[mode]))
    rates = {
        mode: events[mode] / statistics.median(run["seconds"] for run in runs)
        for mode, runs in seen.items()
    }
    if "P1" in bench.results and "seconds" in bench.results["P1"]:
        ours = bench.scale / bench.results["P1"]["seconds"]["product"]
    else:
        ours = bench.scale / (await bulk.product(bench))["seconds"]
    return {
        "events": events,
        "events_per_second": {mode: round(rate, 1) for mode, rate in rates.items()},
        "ratio": {mode: round(ours / rate, 1) for mode, rate in rates.items()},
        "rounds": seen,
        "bars": [
            Bar(
                "P3",
                f"{TITLES[mode]} ({events[mode]:,} events)",
                f"{rates[mode]:,.0f} events/s; the bulk pass is {ours / rates[mode]:,.0f} x that",
                f"≥ {least} x",
                ours / rates[mode] >= least,
            ).as_dict()
            for mode, least in BARS.items()
        ],
    }
