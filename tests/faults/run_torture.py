"""Plays random schedules, one for each seed: ``make torture SEEDS=25 SEED=1``.

``--write`` writes the figures of the run down beside those of the matrix.
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

import record
import schedule
import torture
from eventsource import _core
from torture import Result, Servers

#: Seeds that share databases.
GROUP = 20


async def main(first: int, seeds: int, write: bool) -> int:
    if not _core.HAS_FAILPOINTS:
        print("the extension module has no failpoints; run `make build`", file=sys.stderr)
        return 2
    # A pool says whenever it cannot reach a server, and here they are down often.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
    began, results = time.monotonic(), list[Result]()
    with Servers.start() as servers, tempfile.TemporaryDirectory() as files:
        for start in range(first, first + seeds, GROUP):
            async with torture.databases(servers) as dsns:
                for seed in range(start, min(start + GROUP, first + seeds)):
                    directory = Path(files, str(seed))
                    os.mkdir(directory)
                    results.append(await _play(servers, dsns, directory, seed))
    broken = [result.schedule.seed for result in results if result.violations]
    if write:
        record.write_torture(results, time.monotonic() - began)
    print(f"{len(results)} seeds, {len(broken)} with a broken promise {broken or ''}")
    return 1 if broken else 0


async def _play(servers: Servers, dsns: list[str], directory: Path, seed: int) -> Result:
    plan = schedule.derive(seed)
    print(plan, flush=True)
    try:
        result = await torture.play(servers, dsns, directory, plan)
    except Exception as error:
        result = Result(plan, violations=[f"I11 not_played: {type(error).__name__}: {error}"])
        for cluster in (servers.source, servers.target, servers.control):
            if not cluster.is_running:
                cluster.restart()
    print(
        f"    {result.end}, settled in {result.recovery:.2f} s of {result.seconds:.1f} s,"
        f" {result.acknowledged}/{result.attempted} events, reached {result.accidents}",
        flush=True,
    )
    for violation in result.violations:
        print(f"    BROKEN {violation}", flush=True)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.first, given.seeds, given.write)))
