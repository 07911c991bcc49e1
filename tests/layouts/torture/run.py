"""Plays random schedules for tables of other libraries: ``make torture-layouts SEEDS=20 SEED=1``.

``--presets`` chooses among the libraries, ``--jobs`` plays so many schedules at once, each on
servers of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path

from eventsource import _core
from tests.faults.playing import Servers, played
from tests.layouts.torture import play, schedule
from tests.layouts.torture.libraries import LIBRARIES
from tests.layouts.torture.play import Played

#: Schedules that share servers.
GROUP = 20


async def main(presets: list[str], first: int, seeds: int, jobs: int) -> int:
    if not _core.HAS_FAILPOINTS:
        print("the extension module has no failpoints; run `make build`", file=sys.stderr)
        return 2
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
    plans = [(preset, seed) for seed in range(first, first + seeds) for preset in presets]
    groups = [plans[start : start + GROUP] for start in range(0, len(plans), GROUP)]
    groups.reverse()
    results: list[Played] = []
    with tempfile.TemporaryDirectory() as files:
        async with asyncio.TaskGroup() as playing:
            for _ in range(jobs):
                playing.create_task(_play_groups(groups, results, files))
    broken = [f"{r.schedule.preset}/{r.schedule.seed}" for r in results if r.violations]
    ends = {end: sum(r.end == end for r in results) for end in {r.end for r in results}}
    print(
        f"{len(results)} schedules ended {ends}, {sum(r.acknowledged for r in results):,} attempts"
        f" acknowledged, {len({a for r in results for a in r.accidents})} different failpoints"
        f" acted, {len(broken)} with a broken promise {broken or ''}"
    )
    return 1 if broken else 0


async def _play_groups(
    groups: list[list[tuple[str, int]]], results: list[Played], files: str
) -> None:
    """Play what no other job has taken yet."""
    while groups:
        group = groups.pop()
        with Servers.start() as servers:
            for preset, seed in group:
                directory = Path(files, f"{preset}-{seed}")
                os.mkdir(directory)
                plan = schedule.derive(preset, seed)
                playing = play.play(servers, directory, plan)
                results.append(await played(servers, plan, playing))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="*", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.presets, given.first, given.seeds, given.jobs)))
