"""Where cells are played: servers, stores, and writers that go on from one cell to the next.

Each cell has a tenant of its own. The writers' focus is the tenant that moves; a bystander tenant
always gets a part of the appends, and between two cells a third one gets the rest, so that nobody
writes for the tenant whose rows are being counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from eventsource.subscriptions import PostgreSQLCheckpointRepository
from eventsource.testing import Attempt, Outcome, WriterConfig, WriterProcess
from eventsource.testing.records import RecordReader, clock
from tests.faults.processes import start_writer
from tests.support.driver_job import SUBSCRIPTION
from tests.support.worlds.two_servers import SHARED, World, two_servers

#: Events of each tenant's past, and where its subscription stands in it.
PAST, HANDLED = 150, 40

#: What the writers do. Some transactions stay open for a while, so that snapshots have something in
#: flight; a cutover has to wait for them.
WRITING: dict[str, Any] = {
    "tasks": 3,
    "appends_per_second": 12.0,
    "max_events": 4,
    "focus": 0.75,
    "slow_commits": 0.04,
    "slow_commit_seconds": 0.15,
}


@dataclass(slots=True)
class AttemptLog:
    """The growing record file of one writer, each line read once."""

    reader: RecordReader
    under_way: dict[int, dict[str, Any]] = field(default_factory=dict)
    by_tenant: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def read_on(self) -> AttemptLog:
        for line in self.reader.lines():
            kind = line.pop("kind")
            if kind == "invoke":
                line["event_ids"] = tuple(line["event_ids"])
                self.under_way[line.pop("attempt")] = line
                self.by_tenant[line["tenant_id"]].append(line)
            elif kind == "return":
                line["outcome"] = Outcome(line["outcome"])
                self.under_way.pop(line.pop("attempt")).update(line)
        return self

    def has_left(self, tenant: UUID, following: UUID, since: float, tasks: int) -> bool:
        """Whether no task will write for ``tenant`` any more, ``following`` having the focus.

        Once a task has chosen the new one, every task that begins an append of another tenant than
        the old one has done with it.
        """
        chosen = (a["invoked_at"] for a in self.read_on().by_tenant[str(following)])
        first = min((at for at in chosen if at > since), default=None)
        if first is None:
            return False
        elsewhere = {
            attempt["task"]
            for other, attempts in self.by_tenant.items()
            if other != str(tenant)
            for attempt in takewhile(lambda a: a["invoked_at"] >= first, reversed(attempts))
        }
        return len(elsewhere) == tasks


@dataclass(slots=True)
class Arena:
    """An open world with running writers; the last one writes for the bystander alone."""

    world: World
    bystander: UUID
    resting: UUID
    writers: list[WriterProcess]
    logs: list[AttemptLog]
    stalls: Stalls

    async def enter(self, tenant: UUID) -> None:
        """Give the tenant a past, a subscription and the writers' focus."""
        await self.world.seed([tenant], PAST, streams=10)
        handled = self.world.baseline[tenant][HANDLED].position
        checkpoints = PostgreSQLCheckpointRepository(self.world.control_pool)
        await checkpoints.save(SUBSCRIPTION, SHARED, handled, tenant)
        self.writers[0].focus(tenant)
        await self.written(tenant, 2)

    async def written(self, tenant: UUID, more: int) -> None:
        """Wait until every writer was told OK so many more times for the tenant."""
        for writer in self.writers[:-1]:
            await asyncio.to_thread(writer.wait_for_acknowledged, more, tenant)

    async def leave(self, tenant: UUID) -> None:
        """Wait until nobody writes for the tenant any more."""
        since = clock()
        self.writers[0].focus(self.resting)
        deadline = time.monotonic() + 60
        for writer, log in zip(self.writers[:-1], self.logs[:-1], strict=True):
            while not log.has_left(tenant, self.resting, since, writer.config.tasks):
                assert writer.is_running, f"writer {writer.config.name} ended"
                assert time.monotonic() < deadline, f"{writer.config.name} does not leave {tenant}"
                await asyncio.sleep(0.02)

    def attempts(self, tenants: Sequence[UUID]) -> list[Attempt]:
        """All that was attempted for the tenants so far."""
        return [
            Attempt(**fields)
            for log in self.logs
            for tenant in tenants
            for fields in log.read_on().by_tenant[str(tenant)]
        ]


class Stalls:
    """How long this machine kept a process that had nothing to do from running.

    A stall of the machine is no stall of the product: what writers waited is judged beside it.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        tick = 0.01
        while not self._ending.is_set():
            began = clock()
            time.sleep(tick)
            late = clock() - began - tick
            if late > tick:
                self._seen.append((began, late))

    def longest(self, since: float, until: float) -> float:
        """Seconds of the longest one in a span of time."""
        return max((late for at, late in self._seen if since <= at <= until), default=0.0)

    def end(self) -> None:
        self._ending.set()
        self._thread.join()


@contextlib.asynccontextmanager
async def open_arena(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    directory: Path,
    target_table: str = "events_dedicated-a",
) -> AsyncIterator[Arena]:
    """Make the tables and start the writers; they are stopped at the end."""
    async with two_servers(
        source_dsn, target_dsn, control_dsn, directory, target_table=target_table
    ) as world:
        await PostgreSQLCheckpointRepository(world.control_pool).create_schema()
        bystander, resting = uuid4(), uuid4()
        await world.seed([bystander, resting], 20, streams=5)
        configs: list[WriterConfig] = [
            world.writer_config(f"writer-{number}", [bystander], **WRITING) for number in range(2)
        ]
        alone = {**WRITING, "tasks": 2, "appends_per_second": 20.0, "focus": 0.0}
        configs.append(world.writer_config("bystander", [bystander], **alone))
        stalls = Stalls()
        with contextlib.ExitStack() as stack:
            stack.callback(stalls.end)
            writers = [stack.enter_context(start_writer(config)) for config in configs]
            logs = [AttemptLog(RecordReader(config.records_path)) for config in configs]
            arena = Arena(world, bystander, resting, writers, logs, stalls)
            await arena.written(bystander, 1)
            yield arena
