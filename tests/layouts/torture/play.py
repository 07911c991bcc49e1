"""Plays a schedule on three servers: whatever happens to them, every promise is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4, uuid5

import asyncpg

from eventsource.failpoints import ARMED_VARIABLE, DIRECTORY_VARIABLE
from eventsource.migration.layouts.presets import presets
from eventsource.testing import Cluster
from tests.faults import promises
from tests.faults.matrix import PATIENCE, RECOVERY
from tests.faults.playing import Player, Result, Servers
from tests.faults.processes import Process
from tests.faults.schedule import SERVERS, Act
from tests.layouts.torture import driver, judge, writer
from tests.layouts.torture.libraries import LIBRARIES, Library
from tests.layouts.torture.schedule import Schedule
from tests.layouts.torture.writer import SHARED_STREAMS, Attempt
from tests.support.fingerprint import fingerprint
from tests.support.waiting import until
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world

#: What comes of a schedule here.
Played = Result[Schedule]

#: The most that it may take to reach one side (seconds): with steps as small as some of these.
SLOW = 2 * RECOVERY

#: What an application of its own may be answered when it changes many rows at once.
_MAY_BE = (*writer.EXPECTED, "40P01")


async def play(servers: Servers, directory: Path, schedule: Schedule) -> Played:
    """Play it on fresh databases, bring the move to an end, and count."""
    began, result = time.monotonic(), Played(schedule)
    async with contextlib.AsyncExitStack() as stack:
        dsns = await stack.enter_async_context(_databases(servers))
        library = LIBRARIES[schedule.preset]

        async def make(connection: asyncpg.Connection) -> None:
            await connection.execute(library.tables)

        layout = presets()[schedule.preset]
        async with layout_world(layout, make, dsns) as world:
            play_ = _Play(servers, world, library, schedule, result, directory)
            await play_.prepare()
        stack.callback(play_.end)
        await play_.play()
        await play_.judge()
    result.seconds = time.monotonic() - began
    return result


@contextlib.asynccontextmanager
async def _databases(servers: Servers) -> AsyncIterator[dict[str, str]]:
    clusters: dict[str, Cluster] = {side: getattr(servers, side) for side in SERVERS}
    dsns = {side: await cluster.create_database() for side, cluster in clusters.items()}
    yield dsns
    for side, cluster in clusters.items():
        await cluster.drop_database(urlsplit(dsns[side]).path.lstrip("/"))


class _Play(Player[Schedule]):
    def __init__(
        self, servers: Servers, world: LayoutWorld, library: Library, schedule: Schedule,
        result: Played, directory: Path,
    ) -> None:  # fmt: skip
        super().__init__(servers, schedule, result)
        self.world, self.dsns, self.library, self.directory = world, world.dsns, library, directory
        self.tenant, self.bystander, self.native = library.tenants
        self.writers: dict[str, Process] = {}
        self.frozen: set[str] = set()
        self.seeded: dict[str, list[str]] = {each: [] for each in library.tenants}
        self.before: list[Any] = []

    async def prepare(self) -> None:
        """A past of the tenants, and what the databases are before anybody moves."""
        for tenant in (self.tenant, self.bystander):
            for number in range(self.schedule.past):
                await self._seed(self.world.source, tenant, number)
        if self.schedule.in_use:
            for number in range(30):
                await self._seed(self.world.target, self.native, number)
        for connection in (self.world.source, self.world.target):
            self.before.append(_catalog(await fingerprint(connection, journal=False)))
        self.others = await judge.look(self.world.target, self.library, self.native)

    async def _seed(self, connection: asyncpg.Connection, tenant: str, number: int) -> None:
        stream, event = str(uuid5(UUID(int=number % SHARED_STREAMS), tenant)), str(uuid4())
        await self.library.append(connection, tenant, stream, [event])
        self.seeded[tenant].append(event)

    async def play(self) -> None:
        for config in self.schedule.writers:
            self._write(config)
        await self._written()
        first, *others = self.schedule.acts
        await self._act(first)
        if self.schedule.begun:
            await self._begun()
        for act in others:
            await asyncio.sleep(act.after)
            await self._act(act)
        await self._come_to_rest()

    async def _begun(self) -> None:
        """Wait until there is a migration, or the process has died or stands before that."""
        control = await asyncpg.connect(self.dsns["control"])

        async def has_begun() -> bool:
            if any(self.directory.glob("driver-0/*.reached")):
                return True
            return self.drivers[0].poll() is not None or await control.fetchval(
                "select exists (select from tenant_migrations where tenant_id = $1)", self.tenant
            )

        try:
            await until(has_begun, "the first driver to begin")
        finally:
            await control.close()

    def _write(self, config: dict[str, Any]) -> None:
        dsns = {SOURCE: self.dsns["source"], TARGET: self.dsns["target"]}
        whole = {
            **config, "preset": self.schedule.preset, "dsns": dsns,
            "tenants": [self.tenant, self.bystander],
            "deadlocks": any(act.what == "burst" for act in self.schedule.acts),
            "records": str(self._records(config["name"])),
        }  # fmt: skip
        log = self.directory / f"{config['name']}.log"
        self.writers[config["name"]] = Process(writer.run, whole, log=log)
        if config["frozen"]:
            self.frozen.add(config["name"])

    def _records(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    def _attempts(self) -> list[Attempt]:
        return [each for name in self.writers for each in writer.read(self._records(name))]

    async def _written(self) -> None:
        """Wait until every writer that can has appended something for the tenant since now."""
        waiting = {
            name: self._acknowledged(name)
            for name, process in self.writers.items()
            if process.poll() is None and name not in self.frozen
        }
        deadline = time.monotonic() + RECOVERY
        while waiting:
            waiting = {n: since for n, since in waiting.items() if self._acknowledged(n) <= since}
            if waiting and time.monotonic() > deadline:
                said = {name: self.writers[name].output()[-500:] for name in waiting}
                last = {name: writer.read(self._records(name))[-1] for name in waiting}
                self.result.violations.append(f"I11 no_append: {said} {last}")
                return
            await asyncio.sleep(0.05)

    def _acknowledged(self, name: str) -> int:
        found = writer.read(self._records(name))
        return sum(each.outcome == "ok" and each.tenant == self.tenant for each in found)

    async def _act(self, act: Act) -> None:
        running = [process for process in self.drivers if process.poll() is None]
        writing = [process for process in self.writers.values() if process.poll() is None]
        match act.what:
            case "drive" | "ask":
                self._drive(list(act.steps), act.armed)
            case "kill" if running:
                running[act.which % len(running)].kill()
            case "freeze" if running:
                self.freeze(running[act.which % len(running)], act.seconds)
            case "kill_writer" if len(writing) > 1:
                writing[act.which % len(writing)].kill()
            case "freeze_writer" if writing:
                self.freeze(writing[act.which % len(writing)], act.seconds)
            case "crash":
                await self.crash(SERVERS[act.which % 3], act.seconds)
            case "burst":
                await self._others_do([self.library.burst], [self.tenant], ("source",))
            case "newcomer":
                await self._others_do(self.library.newcomer, [], ("source", "target"))

    async def _others_do(
        self, statements: Sequence[str], given: list[str], sides: tuple[str, ...]
    ) -> None:
        """An application's own statements, which nobody repeats; a partition is made once."""
        for side in sides:
            connection = await asyncpg.connect(self.dsns[side])
            try:
                await connection.execute("set lock_timeout = '2s'")
                for statement in statements:
                    await connection.execute(statement, *given)
            except asyncpg.DuplicateTableError:
                pass
            except asyncpg.PostgresError as error:
                if str(error.sqlstate) not in _MAY_BE:
                    self.result.violations.append(f"I7 refused: {error.sqlstate} {error}")
            finally:
                await connection.close()

    def _drive(self, steps: list[str], armed: str = "") -> Process:
        directory = self.directory / f"driver-{len(self.drivers)}"
        directory.mkdir()
        job = {
            "dsns": self.dsns, "preset": self.schedule.preset, "tenant": self.tenant,
            "config": self.schedule.config, "sizes": self.schedule.sizes, "steps": steps,
            "end": self.schedule.end,
        }  # fmt: skip
        variables = {ARMED_VARIABLE: armed, DIRECTORY_VARIABLE: str(directory)}
        process = Process(driver.run, job, log=directory / "driver.log", **variables)
        self.drivers.append(process)
        return process

    async def _come_to_rest(self) -> None:
        """All servers are up: a last process brings the move to one side, and writers go on."""
        if self.later:
            await asyncio.wait(self.later)
        if not self.schedule.frozen_on:
            self.thaw()
        self.result.recovery = await self._settle()
        self.thaw()
        await self._written()
        await self.end_drivers()
        # One that was frozen before its start may have begun another migration after an abort.
        await self._settle()
        await self._written()
        for process in self.writers.values():
            process.terminate()
        for name, process in self.writers.items():
            if await asyncio.to_thread(process.wait, RECOVERY) not in (0, -9):
                self.result.violations.append(f"I14 writer: {name} {process.output()[-500:]}")
        self.result.accidents = sorted(
            file.stem for file in self.directory.glob("driver-*/*.reached")
        )

    async def _settle(self) -> float:
        began = time.monotonic()
        last = self._drive(["settle"])
        code = None
        with contextlib.suppress(Exception):
            code = await asyncio.to_thread(last.wait, PATIENCE)
        if code != 0:
            self.result.violations.append(f"I11 not_settled: {code} {last.output()[-1500:]}")
        return time.monotonic() - began

    async def judge(self) -> None:
        result, library, attempts = self.result, self.library, self._attempts()
        result.attempted, result.acknowledged = len(attempts), 0
        result.acknowledged = sum(each.outcome == "ok" for each in attempts)
        connections = [
            await asyncpg.connect(self.dsns[side]) for side in ("source", "target", "control")
        ]
        source, target, control = connections
        rows = await control.fetch(
            "select id, state from tenant_migrations where tenant_id = $1 order by created_at",
            self.tenant,
        )
        result.end = rows[-1]["state"] if rows else "none"
        mine = judge.of_tenant(attempts, self.tenant)
        sides = await judge.look_at_both(source, target, library, self.tenant)
        seeded = self.seeded[self.tenant]
        if result.end == "migrated":
            result.violations += judge.moved(library, *sides, seeded, mine)
        elif result.end == "rolled_back":
            result.violations += judge.stayed(library, *sides, seeded, mine)
            for connection, before in zip((source, target), self.before, strict=True):
                result.violations += await judge.left(connection, library)
                now = _catalog(await fingerprint(connection, journal=False))
                changed = sorted(now ^ before)[: judge.NAMED]
                result.violations += [f"I13 catalog: {each}" for each in changed]
        else:
            result.violations.append(f"I11 undecided: it ended as {result.end}")
        others = await judge.look_at_both(source, target, library, self.bystander)
        beside = judge.of_tenant(attempts, self.bystander)
        result.violations += [
            f"bystander: {each}"
            for each in judge.stayed(library, *others, self.seeded[self.bystander], beside)
        ]
        if await judge.look(target, library, self.native) != self.others:
            result.violations.append("I2 native: rows of the target's own tenant have changed")
        result.violations += promises.mistakes(process.output() for process in self.drivers)
        if result.recovery > SLOW:
            result.violations.append(f"I11 slow: {result.recovery:.1f} s until it was on one side")
        for connection in connections:
            await connection.close()

    def end(self) -> None:
        for task in self.later:
            task.cancel()
        for process in [*self.drivers, *self.writers.values()]:
            process.__exit__()


def _catalog(seen: dict[str, Any]) -> set[str]:
    """What an application has made meanwhile is no matter of the move."""
    return {line for line in seen["catalog"] if "newcomer" not in line}
