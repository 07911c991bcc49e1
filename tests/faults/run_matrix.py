"""Plays every cell of the matrix and writes down what came of it: ``make faults``.

Words narrow it down to the cells whose names hold one of them; then nothing is written.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from eventsource import _core
from eventsource.testing import Cluster
from tests.faults import cells, matrix, record
from tests.faults.arena import Arena
from tests.faults.cells import Cell
from tests.faults.matrix import Outcome

#: Cells that share databases and writers.
GROUP = 24


async def main(words: list[str]) -> int:
    if not _core.HAS_FAILPOINTS:
        print("the extension module has no failpoints; run `make build`", file=sys.stderr)
        return 2
    wanted = [c for c in cells.cells() if not words or any(word in str(c) for word in words)]
    began, outcomes = time.monotonic(), list[Outcome]()
    with (
        Cluster.start(16) as source,
        Cluster.start(18) as target,
        tempfile.TemporaryDirectory() as files,
    ):
        for number, group in enumerate(matrix.in_groups(wanted, GROUP)):
            directory = Path(files, str(number))
            os.mkdir(directory)
            async with matrix.arena_for(group, source, target, directory) as arena:
                for cell in group:
                    outcomes.append(await _play(arena, cell))
                    _show(outcomes[-1], len(outcomes), len(wanted))
    if not words:
        record.write_matrix(outcomes, time.monotonic() - began)
    broken = [outcome for outcome in outcomes if outcome.violations]
    print(f"{len(outcomes)} cells, {len(broken)} with a broken promise")
    return 1 if broken else 0


async def _play(arena: Arena, cell: Cell) -> Outcome:
    """One cell; one that cannot be played to its end is a broken promise like another."""
    try:
        return await matrix.play(arena, cell)
    except Exception as error:
        told = f"I11 not_played: {type(error).__name__}: {error}"
        return Outcome(cell, violations=[told[-2000:]])


def _show(outcome: Outcome, number: int, total: int) -> None:
    print(
        f"{number:4}/{total} {outcome.cell!s:44} {outcome.end:12}"
        f" recovered {outcome.recovery:5.2f} s  longest append {outcome.longest * 1000:5.0f} ms",
        flush=True,
    )
    for violation in outcome.violations:
        print(f"     {violation}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
