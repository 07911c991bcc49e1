"""What every torture has: three servers, processes that befall accidents, and a result in words."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

from eventsource.testing import Cluster
from tests.faults.matrix import RECOVERY
from tests.faults.processes import Process


class Planned(Protocol):
    """What a player asks of a schedule."""

    @property
    def frozen_on(self) -> bool: ...


Plan = TypeVar("Plan", bound=Planned)


@dataclass(slots=True)
class Servers:
    """Three servers, so that each can go down alone."""

    source: Cluster
    target: Cluster
    control: Cluster

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator[Self]:
        with Cluster.start(16) as source, Cluster.start(18) as target, Cluster.start(16) as control:
            yield cls(source, target, control)


@dataclass(slots=True)
class Result(Generic[Plan]):
    """What came of a seed; ``recovery`` is the time of the last process to the end (seconds)."""

    schedule: Plan
    end: str = "unknown"
    recovery: float = 0.0
    seconds: float = 0.0
    attempted: int = 0
    acknowledged: int = 0
    accidents: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Player(Generic[Plan]):
    """One schedule's servers and drivers, and what happens to them."""

    def __init__(self, servers: Servers, schedule: Plan, result: Result[Plan]) -> None:
        self.servers, self.schedule, self.result = servers, schedule, result
        self.drivers: list[Process] = []
        self.later: list[asyncio.Task[None]] = []

    def freeze(self, process: Process, seconds: float) -> None:
        process.freeze()
        if process in self.drivers and self.schedule.frozen_on:
            return

        async def thaw() -> None:
            await asyncio.sleep(seconds)
            process.thaw()

        self.later.append(asyncio.create_task(thaw()))

    async def crash(self, name: str, seconds: float) -> None:
        cluster: Cluster = getattr(self.servers, name)
        await asyncio.to_thread(cluster.crash)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(cluster.restart)

    def thaw(self) -> None:
        for driver in self.drivers:
            driver.thaw()

    async def end_drivers(self) -> None:
        """What is over for one is over for all; the thawed find out by themselves."""
        for driver in self.drivers:
            if not await ends(driver):
                self.result.violations.append(f"I11 not_over: {driver.log} {driver.output()}")
                driver.kill()


async def ends(driver: Process) -> bool:
    """Wait for it; one that was thawed may come to its second failpoint and freeze once more."""
    deadline = time.monotonic() + RECOVERY
    while driver.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.2)
        driver.thaw()
    return True


async def played(
    servers: Servers, schedule: Plan, playing: Awaitable[Result[Plan]]
) -> Result[Plan]:
    """The result of a schedule, printed; also of one that could not be played to its end."""
    try:
        result = await playing
    except Exception as error:
        result = Result(schedule, violations=[f"I11 not_played: {type(error).__name__}: {error}"])
        for cluster in (servers.source, servers.target, servers.control):
            if not cluster.is_running:
                cluster.restart()
    print(
        f"{schedule}\n    {result.end}, settled in {result.recovery:.2f} s of {result.seconds:.1f}"
        f" s, {result.acknowledged}/{result.attempted} acknowledged, reached {result.accidents}",
        flush=True,
    )
    for violation in result.violations:
        print(f"    BROKEN {violation}", flush=True)
    return result
