"""Every failpoint, and everything that can happen there: one cell each.

The cells come from the registry of failpoints. In each a process drives the tenant of the cell
until it arrives at the failpoint, something happens to it, and another process brings the move to
its end. Then everything is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from eventsource.testing import Attempt, Cluster
from eventsource.testing.records import clock
from tests.faults import afterwards, promises
from tests.faults.arena import Arena, open_arena
from tests.faults.cells import ARRIVALS, Cell
from tests.faults.processes import Process, start_driver

#: The cutover's budget in every cell (seconds), and what it may be exceeded by (I12).
BUDGET, BEYOND = 1.0, 0.25
#: I8: the most that an append of another tenant may take (seconds).
OTHERS = 0.25
#: I11: the most that it may take to reach one side (seconds).
RECOVERY = 30.0
#: The most that a process is waited for (seconds).
PATIENCE = 90.0

#: Rows that a clean-up deletes at once, so that there are several times of it.
PORTION = 40

CONFIG: dict[str, Any] = {
    "batch_size": 2,
    "cutover_timeout_seconds": BUDGET,
    # The shortest there is: so long after its death another process may take over.
    "lease_seconds": 1.0,
    "pass_interval_seconds": 0.05,
}


@dataclass(slots=True)
class Outcome:
    """What came of a cell. Times in seconds.

    ``recovery`` is from the accident to the end of the move, by whoever brought it there;
    ``longest`` the longest append of the tenant, ``others`` of the other tenants, both without
    those that the writers keep open themselves; ``stall`` the longest time for which this machine
    kept an idle process from running meanwhile.
    """

    cell: Cell
    end: str = "unknown"
    recovery: float = 0.0
    longest: float = 0.0
    others: float = 0.0
    stall: float = 0.0
    seconds: float = 0.0
    events: int = 0
    violations: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def arena_for(
    cells: Sequence[Cell], source: Cluster, target: Cluster, directory: Path
) -> AsyncIterator[Arena]:
    """Fresh databases for cells that can be played one after the other."""
    async with contextlib.AsyncExitStack() as stack:

        async def database(cluster: Cluster) -> str:
            dsn = await cluster.create_database()
            stack.push_async_callback(cluster.drop_database, urlsplit(dsn).path.lstrip("/"))
            return dsn

        dsns = (await database(source), await database(target), await database(source))
        yield await stack.enter_async_context(open_arena(*dsns, directory))


def in_groups(cells: Iterable[Cell], size: int) -> Iterator[list[Cell]]:
    """Cells that share an arena.

    Guards stay behind where a tenant has left, and a hundred of them are felt by every writer. A
    table is empty for one tenant only.
    """
    group: list[Cell] = []
    for cell in cells:
        if cell.needs_an_empty_table:
            yield [cell]
            continue
        group.append(cell)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


async def play(arena: Arena, cell: Cell, slack: float = 0.0) -> Outcome:
    """Play one cell with a fresh tenant.

    Args:
        slack: seconds that appends may take longer, on a machine that is not to be trusted.
    """
    outcome, began = Outcome(cell), time.monotonic()
    tenant = uuid4()
    await arena.enter(tenant)
    indexes = await promises.indexes(arena.world.target)
    play_ = _Play(arena, cell, tenant)
    since = clock()
    try:
        outcome.recovery = await play_.run()
    finally:
        play_.end()
    until = clock()
    await arena.written(tenant, 1)
    await arena.leave(tenant)
    attempts = arena.attempts([tenant])
    outcome.events = sum(len(attempt.event_ids) for attempt in attempts)
    judge = afterwards.broken if cell.before else promises.broken
    outcome.end, outcome.violations = await judge(arena.world, tenant, attempts, cell.ends)
    outcome.violations += await promises.orphans(arena.world)
    outcome.violations += promises.mistakes(process.output() for process in play_.started)
    if await promises.indexes(arena.world.target) != indexes:
        outcome.violations.append("I13 indexes: the target's are not what they were")
    _measure(arena, outcome, attempts, (since, until), slack)
    outcome.seconds = time.monotonic() - began
    return outcome


def _measure(
    arena: Arena,
    outcome: Outcome,
    attempts: list[Attempt],
    span: tuple[float, float],
    slack: float,
) -> None:
    """I8, I11, I12: how long it took, and whom it kept waiting."""
    since, until = span
    others = arena.attempts([arena.bystander, arena.resting])
    outcome.stall = arena.stalls.longest(since, until)
    outcome.longest = _longest(attempts, since, until)
    outcome.others = _longest(others, since, until)
    if outcome.recovery > RECOVERY:
        outcome.violations.append(f"I11 slow: {outcome.recovery:.1f} s until it was on one side")
    if outcome.longest > BUDGET + BEYOND + outcome.stall + slack:
        outcome.violations.append(f"I12 waited: an append took {outcome.longest:.3f} s")
    if outcome.others > OTHERS + outcome.stall + slack:
        outcome.violations.append(f"I8 waited: an append took {outcome.others:.3f} s")
    failed = {a.error for a in others if a.error and since <= a.invoked_at <= until}
    failed -= {error for error in failed if error.startswith("OptimisticLockError")}
    outcome.violations += [f"I8 failed: {error}" for error in sorted(failed)[:3]]
    refused = {
        a.error.partition(":")[0] for a in attempts
        if a.error and a.path == "router" and not a.error.startswith("OptimisticLockError")
    }  # fmt: skip
    outcome.violations += [f"I12 error: a writer saw {error}" for error in sorted(refused)]


def _longest(attempts: list[Attempt], since: float, until: float) -> float:
    """Of the appends through the router; the others' transactions are kept open on purpose."""
    return max(
        (a.latency for a in attempts
         if a.latency is not None and a.path == "router" and since <= a.invoked_at <= until),
        default=0.0,
    )  # fmt: skip


class _Play:
    """One cell's processes."""

    def __init__(self, arena: Arena, cell: Cell, tenant: UUID) -> None:
        self.arena, self.cell, self.tenant = arena, cell, tenant
        self.directory = arena.world.directory / f"{cell}-{tenant.hex[:8]}"
        self.directory.mkdir()
        self.started: list[Process] = []

    async def run(self) -> float:
        """Until the move is at its end; returns the seconds from the accident to there."""
        first = await self._arrive()
        at = time.monotonic()
        match self.cell.fault:
            case "kill":
                await self._ended(first)
                assert first.returncode == -9, first.output()
            case "freeze":
                await asyncio.sleep(2 * BUDGET)
                first.thaw()
                at = time.monotonic()
                (self.directory / "go").touch()
                await self._ended(first)
            case "second":
                await self._settle()
                recovered = time.monotonic() - at
                first.thaw()
                (self.directory / "go").touch()
                await self._ended(first)
                return recovered
            case "abort":
                await self._settle(self.cell.aborted_by or "abort")
                recovered = time.monotonic() - at
                first.thaw()
                (self.directory / "go").touch()
                await self._ended(first)
                # Thawed before its start, it has begun another migration behind the abort.
                await self._settle()
                return recovered
            case _:
                (self.directory / "go").touch()
                await self._ended(first)
        await self._settle()
        return time.monotonic() - at

    async def _arrive(self) -> Process:
        """Start the process of the cell and wait until it is where it should be."""
        failpoint = self.cell.failpoint
        if self.cell.before:
            before = self._start("before", self.cell.before)
            code = await self._ended(before)
            assert code == 0, before.output()
            await self.arena.written(self.tenant, 2)
        if failpoint.startswith("recovery."):
            dying = self._start("dying", self.cell.journey, "cutover.fence.held=kill")
            await self._ended(dying)
            process = self._start("first", ["settle"], self._armed())
        else:
            process = self._start("first", self.cell.journey, self._armed())
        if "cutover.fence.wait=wait" in self._armed():
            # So that there is something left for the last pass.
            await self._reached(process, "cutover.fence.wait")
            await self.arena.written(self.tenant, 2)
            (self.directory / "cutover.fence.wait.released").touch()
        await self._reached(process, failpoint)
        return process

    def _armed(self) -> str:
        failpoint, fault = self.cell.failpoint, self.cell.fault
        action = "freeze" if fault in ("second", "abort") else fault
        arrival = next((n for name, n in ARRIVALS.items() if failpoint.startswith(name)), 1)
        armed = f"{failpoint}={action}@{arrival}"
        if failpoint.startswith(("cutover.delta", "cutover.mapping")):
            armed += ";cutover.fence.wait=wait"
        return armed

    async def _reached(self, process: Process, failpoint: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (self.directory / f"{failpoint}.reached").exists():
            assert process.poll() is None, f"{failpoint} was not reached: {process.output()}"
            assert time.monotonic() < deadline, f"{failpoint} was not reached: {process.output()}"
            await asyncio.sleep(0.002)

    async def _settle(self, end: str = "") -> None:
        """Another process brings the move to its end."""
        process = self._start(f"settling-{len(self.started)}", ["settle"], end=end)
        code = await self._ended(process)
        assert code == 0, process.output()

    def _start(self, name: str, steps: list[str], armed: str = "", end: str = "") -> Process:
        process = start_driver(
            self.arena.world,
            name,
            armed,
            self.directory,
            tenant=str(self.tenant),
            config=self.cell.config(CONFIG),
            steps=steps,
            end=end or self.cell.end,
            portion=PORTION,
            **({"large_from": 1} if self.cell.needs_an_empty_table else {}),
        )
        self.started.append(process)
        return process

    async def _ended(self, process: Process) -> int:
        return await asyncio.to_thread(process.wait, PATIENCE)

    def end(self) -> None:
        for process in self.started:
            process.__exit__()
