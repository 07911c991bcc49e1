"""The whole suite in one command: ``python -m benchmarks --scale 1000000``; see README.md."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import shutil
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    append_cost,
    bulk,
    bulk_as_run,
    catch_up,
    copy_jobs,
    cutover,
    fifth_index,
    fifth_index_copy,
    fifth_index_passes,
    foreign_tables,
    foreign_transaction,
    guard_cost,
    in_use,
    large_transaction,
    library,
    perf,
    rehearsal,
    report,
    returns,
    routing,
    sizes,
    small_moves,
    steady_writers,
    verification,
    waves,
    way_back,
)
from benchmarks.bench import AS_RUN, MAJOR, ROOT, SETTINGS, Bench
from benchmarks.machine import describe
from eventsource.testing import Cluster

Benchmark = Callable[[Bench], Awaitable[dict[str, Any]]]

#: In the order in which they run. One run may answer for two bars.
BENCHMARKS: dict[str, Benchmark] = {
    "P1": bulk.run,
    "P1R": bulk_as_run.run,
    "P2": in_use.run,
    "P2R": in_use.run_as_run,
    "P3": library.run,
    "P4": verification.run,
    "P5": cutover.run,
    "P6": routing.run,
    "P7": append_cost.run,
    "P8": sizes.run,
    "P9": catch_up.run,
    "P10": guard_cost.run,
    "P11": foreign_transaction.run,
    "P12": large_transaction.run,
    "P13": steady_writers.run,
    "P14": small_moves.run,
    "P16": way_back.run,
    "P17": returns.run,
    "P18": rehearsal.run,
    "P19": waves.run,
    "P20": foreign_tables.run,
    "JOBS": copy_jobs.run,
    "INDEX": fifth_index.run,
    "INDEX-COPY": fifth_index_copy.run,
    "INDEX-PASSES": fifth_index_passes.run,
}

#: Those that start servers of their own, as servers are run, with a workload of their own.
AS_RUN_BENCHMARKS = {"P1R", "P2R", "P12", "P13"}

#: About no bar.
ASKED_FOR = ("JOBS", "INDEX", "INDEX-COPY", "INDEX-PASSES")

#: What runs when nothing is asked for.
BARS = [name for name in BENCHMARKS if name not in ASKED_FOR]


async def suite(options: argparse.Namespace, out: Path) -> bool:
    """Run what was asked for and write it down; whether every answer was right."""
    began = describe(options)
    complete = True
    with (
        Cluster.start(MAJOR, SETTINGS) as source,
        Cluster.start(MAJOR, SETTINGS) as target,
    ):
        bench = Bench(options.scale, options.rounds, source, target, older=options.older)
        if options.profile or not AS_RUN_BENCHMARKS.issuperset(options.only):
            await bench.prepare()
        for name in options.only:
            print(f"{name}: {BENCHMARKS[name].__module__}", file=sys.stderr, flush=True)
            try:
                bench.results[name] = await BENCHMARKS[name](bench)
            except Exception as error:
                # One peer that cannot run must not take the other figures with it.
                traceback.print_exc()
                complete = False
                bench.results[name] = report.failure(name, error)
            report.write(out, bench, began)
        if options.profile:
            await perf.write(bench, out)
    print(report.table(bench, began))
    print(f"written to {out}", file=sys.stderr)
    return complete


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--scale", type=int, default=1_000_000, help="events of the tenant")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each peer")
    parser.add_argument("--only", default=",".join(BARS), help="for example P1,P4")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of both servers, for example shared_buffers=1GB",
    )
    parser.add_argument(
        "--older",
        type=int,
        default=16,
        metavar="MAJOR",
        help="major version of the source where servers are set up as they are run",
    )
    parser.add_argument(
        "--profile", action="store_true", help="one more run of P1 and P2 each, under perf"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/runs/<date>-<scale>")
    options = parser.parse_args()
    options.only = [name.strip().upper() for name in options.only.split(",")]
    if unknown := set(options.only) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.only = [name for name in BENCHMARKS if name in options.only]
    if options.profile and shutil.which("perf") is None:
        parser.error("no perf here; install it (Debian: linux-perf), and run as root")
    if not all("=" in given for given in options.set):
        parser.error("--set takes NAME=VALUE")
    for settings in (SETTINGS, AS_RUN):
        settings.update(given.split("=", 1) for given in options.set)
    return options


def main() -> int:
    options = arguments()
    out = options.out or ROOT / "benchmarks" / "runs" / f"{datetime.date.today()}-{options.scale}"
    out.mkdir(parents=True, exist_ok=True)
    return 0 if asyncio.run(suite(options, out)) else 1


if __name__ == "__main__":
    sys.exit(main())
