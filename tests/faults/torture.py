"""Plays a schedule: whatever it does to processes and servers, every promise is kept."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from eventsource.testing import Cluster, WriterProcess
from tests.drills.stage import Stage
from tests.faults import afterwards, promises
from tests.faults.matrix import PATIENCE, PORTION, RECOVERY
from tests.faults.playing import Player, Result, Servers, ends
from tests.faults.processes import Process, start_driver, start_writer
from tests.faults.schedule import SERVERS, Act, Part, Schedule
from tests.faults.strikes import Struck
from tests.support.driver_job import SUBSCRIPTION
from tests.support.worlds.two_servers import DEDICATED, SHARED, World, all_attempts, two_servers

#: How long nobody notices that a database has gone back (seconds).
UNNOTICED = 0.7

#: What comes of a schedule here.
Played = Result[Schedule]

#: Of source, target and control.
Dsns = tuple[str, str, str]


@contextlib.asynccontextmanager
async def databases(servers: Servers) -> AsyncIterator[Dsns]:
    """Fresh ones with all tables."""
    clusters = (servers.source, servers.target, servers.control)
    source, target, control = [await cluster.create_database() for cluster in clusters]
    dsns = (source, target, control)
    async with two_servers(*dsns, Path()) as world:
        await PostgreSQLCheckpointRepository(world.control_pool).create_schema()
    yield dsns
    for cluster, dsn in zip(clusters, dsns, strict=True):
        await cluster.drop_database(urlsplit(dsn).path.lstrip("/"))


async def play(servers: Servers, dsns: Dsns, directory: Path, schedule: Schedule) -> Played:
    """Play it, bring the move to an end, and count."""
    began, result = time.monotonic(), Played(schedule)
    async with two_servers(*dsns, directory, make=False) as world:
        await _prepare(world, schedule)
        tenants = [schedule.tenant, schedule.bystander]
        configs = [world.writer_config(tenants=tenants, **w) for w in schedule.writers]
        play_ = _Play(servers, world, schedule, result)
        with contextlib.ExitStack() as stack:
            stack.callback(play_.end)
            play_.writers = [start_writer(config) for config in configs]
            await play_.written()
            for number, act in enumerate([*schedule.acts, None]):
                await play_.strike_before(number)
                if act is not None:
                    await asyncio.sleep(act.after)
                    await play_.act(act)
            await play_.come_to_rest()
        baseline = world.baseline
    async with two_servers(*dsns, directory, make=False) as world:
        world.baseline = baseline
        await _judge(world, play_, result)
    if play_.struck is not None:
        await play_.struck.close()
    result.seconds = time.monotonic() - began
    return result


async def _prepare(world: World, schedule: Schedule) -> None:
    await world.seed([schedule.tenant, schedule.bystander], schedule.past, streams=10)
    past = world.baseline[schedule.tenant]
    handled = past[len(past) // 3].position if past else 0
    checkpoints = PostgreSQLCheckpointRepository(world.control_pool)
    await checkpoints.save(SUBSCRIPTION, SHARED, handled, schedule.tenant)


async def _judge(world: World, play_: _Play, result: Played) -> None:
    schedule, attempts = result.schedule, all_attempts(play_.writers)
    result.attempted = sum(len(attempt.event_ids) for attempt in attempts)
    result.acknowledged = sum(len(a.event_ids) for a in attempts if a.outcome == "ok")
    ends = {"migrated", "rolled_back"}
    if play_.struck is not None and play_.struck.is_over:
        result.end = f"{schedule.strike}"
        found = await play_.struck.broken(attempts)
        found += promises.mistakes(process.output() for process in play_.drivers)
        result.violations += found
        return
    if play_.played:
        ends = {"returned", "stayed", "closed", "refused"}
        ends = {"cleaned"} if "cleanup" in play_.played else ends
        result.end, found = await afterwards.broken(world, schedule.tenant, attempts, ends)
    else:
        result.end, found = await promises.broken(world, schedule.tenant, attempts, ends)
    if play_.decoy:
        found += await _strays(play_.decoy, world.target.table)
    bystander = await world.check_bystander(schedule.bystander, attempts)
    found += [str(violation) for violation in bystander.violations]
    found += await promises.orphans(world)
    found += promises.mistakes(process.output() for process in play_.drivers)
    if result.recovery > RECOVERY:
        found.append(f"I11 slow: {result.recovery:.1f} s until it was on one side")
    result.violations += found


async def _strays(dsn: str, table: str) -> list[str]:
    """I14, I17: a process with another database under a store's id has changed nothing there."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetchval(f'select count(*) from "{table}"')
        fences = await connection.fetchval("select count(*) from eventsource_fences")
    finally:
        await connection.close()
    return [f"I14 another_store: {rows} rows and {fences} fences"] if rows or fences else []


class _Play(Player[Schedule]):
    """One schedule's processes."""

    def __init__(self, servers: Servers, world: World, schedule: Schedule, result: Played) -> None:
        super().__init__(servers, schedule, result)
        self.world = world
        self.writers: list[WriterProcess] = []
        self.ended: list[WriterProcess] = []
        self.decoy = ""
        self.struck: Struck | None = None
        # Where the tenant is to be, and what was done after its move.
        self.home, self.played = DEDICATED, list[str]()

    async def strike_before(self, number: int) -> None:
        """What happens before that act: a copy for later is made, or a database goes back."""
        strike = self.schedule.strike
        if strike is None:
            return
        if number == strike.back_to:
            servers = {side: getattr(self.servers, side) for side in SERVERS}
            dsns = (self.world.source.dsn, self.world.target.dsn, self.world.control_dsn)
            directory = self.world.directory / "operator"
            directory.mkdir()
            stage = Stage(
                servers, dict(zip(SERVERS, dsns, strict=True)), directory,
                self.schedule.tenant, self.schedule.bystander,
            )  # fmt: skip
            self.struck = Struck(stage, strike)
            await self.struck.prepare()
        if number == strike.at:
            assert self.struck is not None
            await self._strike(self.struck)

    async def _strike(self, struck: Struck) -> None:
        await struck.happen()
        await asyncio.sleep(UNNOTICED)
        for task in self.later:
            task.cancel()
        for process in self.drivers:
            process.kill()
        for writer in self.writers:
            _process_of(writer).thaw()
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                await asyncio.to_thread(writer.stop)
            writer.kill()
        self.result.violations += await struck.answered()
        # Applications begin again.
        for writer in list(self.writers):
            config = replace(writer.config, name=f"{writer.config.name}-again")
            self.writers.remove(writer)
            self.ended.append(writer)
            self.writers.append(start_writer(config))
        await self.written()

    async def act(self, act: Act) -> None:
        running = [driver for driver in self.drivers if driver.poll() is None]
        writing = [writer for writer in self.writers if writer.is_running]
        match act.what:
            case "drive" | "ask":
                self._drive(list(act.steps), act.armed, self.schedule.end)
            case "kill" if running:
                running[act.which % len(running)].kill()
            case "freeze" if running:
                self.freeze(running[act.which % len(running)], act.seconds)
            case "kill_writer" if len(writing) > 1:
                writing[act.which % len(writing)].kill()
            case "freeze_writer" if writing:
                self.freeze(_process_of(writing[act.which % len(writing)]), act.seconds)
            case "crash":
                await self.crash(SERVERS[act.which % 3], act.seconds)
            case "lock_out":
                await self._lock_out(SERVERS[act.which % 3], act.seconds)
            case "misconfigure":
                await self._misconfigure(act.seconds)

    def _drive(
        self, steps: list[str], armed: str = "", end: str = "cutover", **more: object
    ) -> Process:
        directory = self.world.directory / f"driver-{len(self.drivers)}"
        directory.mkdir()
        tenant, config = str(self.schedule.tenant), self.schedule.config
        process = start_driver(
            self.world, "driver", armed, directory,
            tenant=tenant, config=config, steps=steps, end=end, portion=PORTION, **more,
        )  # fmt: skip
        self.drivers.append(process)
        return process

    async def _lock_out(self, name: str, seconds: float) -> None:
        """Everybody's password is another one for a while, and open sessions end."""
        cluster: Cluster = getattr(self.servers, name)
        connection = await asyncpg.connect(cluster.dsn())
        try:
            await connection.execute("alter role postgres password 'another'")
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename = current_user and pid <> pg_backend_pid()"
            )
            await asyncio.sleep(seconds)
        finally:
            await connection.execute(f"alter role postgres password '{cluster.password}'")
            await connection.close()

    async def _misconfigure(self, seconds: float) -> None:
        """A process takes part for which another database has the target's id."""
        if not await self.world.coordinator.get_migrations_by_tenant(self.schedule.tenant):
            # It would begin the move, and be the one that is right.
            return
        self.decoy = await self.servers.target.create_database()
        async with asyncpg.create_pool(self.decoy, min_size=1, max_size=1) as pool:
            await PostgreSQLEventStore(pool, self.world.target.table).create_schema()
        dsns = [self.world.source.dsn, self.decoy, self.world.control_dsn]
        wrong = self._drive(["settle"], end=self.schedule.end, dsns=dsns)
        await asyncio.sleep(seconds)
        wrong.kill()

    async def come_to_rest(self) -> None:
        """All servers are up: a last process brings the move to one side, and writers go on."""
        if self.later:
            await asyncio.wait(self.later)
        if not self.schedule.frozen_on:
            self.thaw()
        self.result.recovery = await self._settle()
        self.thaw()
        await self.written()
        await self.end_drivers()
        # One that was frozen before its start may have begun another migration behind an abort.
        await self._settle()
        if await self._has_moved():
            for part in self.schedule.then:
                await self._play_part(part)
        for writer in self.writers:
            if writer.is_running:
                writer.stop()
        self.result.accidents = self._accidents()

    async def _has_moved(self) -> bool:
        found = await self.world.coordinator.get_migrations_by_tenant(self.schedule.tenant)
        return bool(found) and found[-1].state == "migrated"

    async def _play_part(self, part: Part) -> None:
        """A return, the end of a way back, or a clean-up, and whatever befalls the process."""
        if part.step == "return":
            self.home = SHARED if self.home == DEDICATED else DEDICATED
        process = self._drive([part.step], part.armed, part.step, home=self.home)
        if part.killed_after is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # Frozen it does not end, and somebody else comes.
                await asyncio.to_thread(process.wait, 3.0)
        else:
            await asyncio.sleep(part.killed_after)
            process.kill()
        taken = await self._settle(part.step)
        self.result.recovery = max(self.result.recovery, taken)
        process.thaw()
        if not await ends(process):
            self.result.violations.append(f"I11 not_over: {process.log} {process.output()}")
        await self._settle(part.step)
        await self.written()
        self.played.append(part.step)

    async def _settle(self, end: str = "") -> float:
        """Another process brings the newest migration to its end; returns the seconds it took."""
        began = time.monotonic()
        last = self._drive(["settle"], end=end or self.schedule.end, home=self.home)
        try:
            code = await asyncio.to_thread(last.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            journal = await self.world.control_pool.fetch(
                "select state, driver_name, driver_expires_at::text, error_message,"
                " abort_requested, cutover_request, pause_requested from tenant_migrations"
                " where tenant_id = $1 order by created_at desc",
                str(self.schedule.tenant),
            )
            told = "; ".join(str(dict(row)) for row in journal)
            self.result.violations.append(f"I11 not_settled: {last.output()[-1500:]} {told}")
        return time.monotonic() - began

    async def written(self) -> None:
        """Wait until every writer that can has appended something for the tenant."""
        for writer in self.writers:
            if writer.is_running and not writer.config.frozen:
                await asyncio.to_thread(writer.wait_for_acknowledged, 1, self.schedule.tenant)

    def _accidents(self) -> list[str]:
        """The failpoints that were reached."""
        return sorted(file.stem for file in self.world.directory.glob("driver-*/*.reached"))

    def end(self) -> None:
        for task in self.later:
            task.cancel()
        for process in [*self.drivers, *map(_process_of, [*self.writers, *self.ended])]:
            process.__exit__()


def _process_of(writer: WriterProcess) -> Process:
    process = writer._process
    assert isinstance(process, Process)
    return process
