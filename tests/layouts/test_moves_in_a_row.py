"""Twenty tenants of each library move in a row, under 24 writers, by drivers that die."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsource import _core
from eventsource.migration.layouts.presets import presets
from tests.faults.processes import Process
from tests.layouts.torture import driver, judge, writer
from tests.layouts.torture.libraries import LIBRARIES, Library
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world

PROCESSES, TASKS, MOVES = 3, 8, 20

#: Partitions for the tenants that the library's tables here have none for.
_REST = "".join(
    f"create table emt_{table}_rest partition of emt_{table} default;"
    for table in ("streams", "messages")
)


def _tenant(library: Library, number: int) -> str:
    return str(UUID(int=number + 1)) if library.preset == "eventsource-py" else f"tenant{number}"


class _Row:
    """The moves of one test."""

    def __init__(self, world: LayoutWorld, library: Library, directory: Path) -> None:
        self.world, self.library, self.directory = world, library, directory
        self.chance = random.Random(library.preset)

    def write(self, name: str, tenant: str, tasks: int) -> Process:
        config: dict[str, Any] = {
            "name": name, "seed": name, "tasks": tasks, "rest": 0.05, "most": 3, "changes": 0.1,
            "slow_commits": 0.0, "isolation": "read committed", "replica_role": False,
            "frozen": False, "deadlocks": False, "tenants": [tenant],
            "preset": self.library.preset, "records": str(self.directory / f"{name}.jsonl"),
            "dsns": {SOURCE: self.world.dsns["source"], TARGET: self.world.dsns["target"]},
        }  # fmt: skip
        return Process(writer.run, config, log=self.directory / f"{name}.log")

    def drive(self, name: str, tenant: str, steps: list[str]) -> Process:
        job = {
            "dsns": self.world.dsns, "preset": self.library.preset, "tenant": tenant,
            "config": {"lease_seconds": 1.0}, "sizes": {"exact_keys": 5000, "portion": 5000},
            "steps": steps, "end": "cutover",
        }  # fmt: skip
        return Process(driver.run, job, log=self.directory / f"{name}.log")

    async def move(self, number: int) -> list[writer.Attempt]:
        """One tenant, by two drivers; what its writers did."""
        tenant = _tenant(self.library, number)
        names = [f"writer-{number}-{process}" for process in range(PROCESSES)]
        writers = [self.write(name, tenant, TASKS) for name in names]
        first = self.drive(f"first-{number}", tenant, ["start", "follow", "cutover"])
        await asyncio.sleep(self.chance.random() * 1.5)
        first.kill()
        second = self.drive(f"second-{number}", tenant, ["settle"])
        assert await asyncio.to_thread(second.wait, 60) == 0, second.output()[-1500:]
        await self._at_the_target(names)
        for process in writers:
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0, process.output()[-1500:]
        return [each for name in names for each in self.attempts(name)]

    def attempts(self, name: str) -> list[writer.Attempt]:
        return writer.read(self.directory / f"{name}.jsonl")

    async def _at_the_target(self, names: list[str]) -> None:
        deadline = time.monotonic() + 30
        while not all(
            any(each.store == TARGET and each.outcome == "ok" for each in self.attempts(name))
            for name in names
        ):
            assert time.monotonic() < deadline, "a writer does not follow its tenant"
            await asyncio.sleep(0.1)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.skipif(not _core.HAS_FAILPOINTS, reason="built without failpoints: `make build`")
@pytest.mark.parametrize("library", LIBRARIES.values(), ids=str)
async def test_tenants_move_in_a_row(
    library: Library, dsns: dict[str, str], tmp_path: Path
) -> None:
    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(library.tables)
        if library.preset == "emmett":
            await connection.execute(_REST)

    async with layout_world(presets()[library.preset], make, dsns) as world:
        row = _Row(world, library, tmp_path)
        beside = row.write("beside", library.tenants[1], 4)
        for number in range(MOVES):
            attempts = await row.move(number)
            tenant = _tenant(library, number)
            sides = await judge.look_at_both(world.source, world.target, library, tenant)
            assert judge.moved(library, *sides, [], attempts) == []
            assert sum(each.outcome == "ok" for each in attempts) > PROCESSES * TASKS
        beside.terminate()
        assert await asyncio.to_thread(beside.wait, 30) == 0, beside.output()[-1500:]
        beyond = library.tenants[1]
        sides = await judge.look_at_both(world.source, world.target, library, beyond)
        assert judge.stayed(library, *sides, [], row.attempts("beside")) == []
