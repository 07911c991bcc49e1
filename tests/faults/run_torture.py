"""Plays random schedules, one for each seed: ``make torture SEEDS=25 SEED=1``.

``--write`` writes the figures of the run down beside those of the matrix. ``--jobs`` plays so many
schedules at once, each on servers of its own: most of a schedule is waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from eventsource import _core
from tests.faults import record, schedule, torture
from tests.faults.playing import Servers, played
from tests.faults.torture import Played

#: Seeds that share databases.
GROUP = 20


async def main(first: int, seeds: int, jobs: int, write: bool) -> int:
    if not _core.HAS_FAILPOINTS:
        print("the extension module has no failpoints; run `make build`", file=sys.stderr)
        return 2
    # A pool says whenever it cannot reach a server, and here they are down often.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
    began, results = time.monotonic(), list[Played]()
    last = first + seeds
    groups = [range(start, min(start + GROUP, last)) for start in range(first, last, GROUP)]
    groups.reverse()
    with tempfile.TemporaryDirectory() as files:
        async with asyncio.TaskGroup() as playing:
            for _ in range(jobs):
                playing.create_task(_play_groups(groups, results, files))
    results.sort(key=lambda result: result.schedule.seed)
    broken = [result.schedule.seed for result in results if result.violations]
    if write:
        record.write_torture(results, time.monotonic() - began)
    print(f"{len(results)} seeds, {len(broken)} with a broken promise {broken or ''}")
    return 1 if broken else 0


async def _play_groups(groups: list[range], results: list[Played], files: str) -> None:
    """Play what no other job has taken yet."""
    with Servers.start() as servers:
        while groups:
            seeds = groups.pop()
            async with torture.databases(servers) as dsns:
                for seed in seeds:
                    directory = Path(files, str(seed))
                    os.mkdir(directory)
                    plan = schedule.derive(seed)
                    playing = torture.play(servers, dsns, directory, plan)
                    results.append(await played(servers, plan, playing))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.first, given.seeds, given.jobs, given.write)))
