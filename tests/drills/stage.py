"""Three servers that can go back, fail over or be lost, with writers that live through it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg

from eventsource.subscriptions import PostgreSQLCheckpointRepository
from eventsource.testing import Attempt, Cluster, StoreAddress, WriterConfig, WriterProcess
from tests.drills.table import Moment
from tests.faults.processes import Process, start_driver
from tests.support import REPOSITORY
from tests.support.standby import Standby
from tests.support.waiting import until
from tests.support.worlds.two_servers import DEDICATED, SHARED, World, two_servers

SIDES = ("source", "target", "control")

#: Small chunks, so that a copy of little has a middle.
CONFIG = {"batch_size": 10, "copy_jobs": 1, "pass_interval_seconds": 0.05, "lease_seconds": 1.0}

PAST = 600


@contextlib.contextmanager
def three_servers() -> Iterator[dict[str, Cluster]]:
    with Cluster.start(16) as source, Cluster.start(18) as target, Cluster.start(16) as control:
        yield {"source": source, "target": target, "control": control}


@dataclass
class Stage:
    """What a drill plays on.

    Attributes:
        servers, dsns: by side.
        writers: of now; ``ended`` are those of before.
        copies: the volumes that a side can be put back to.
    """

    servers: dict[str, Cluster]
    dsns: dict[str, str]
    directory: Path
    tenant: UUID = field(default_factory=uuid4)
    bystander: UUID = field(default_factory=uuid4)
    writers: list[WriterProcess] = field(default_factory=list)
    ended: list[WriterProcess] = field(default_factory=list)
    copies: dict[str, Path] = field(default_factory=dict)
    standbys: dict[str, Standby] = field(default_factory=dict)
    _names: int = 0

    # What is there.

    def store(self, side: str) -> StoreAddress:
        table = "events_shared" if side == "source" else "events_dedicated-a"
        return StoreAddress(self.dsns[side], table)

    @contextlib.asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        async with two_servers(
            self.dsns["source"],
            self.dsns["target"],
            self.dsns["control"],
            self.directory,
            make=False,
        ) as world:
            yield world

    async def sql(self, side: str, query: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsns[side])
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def held(self, side: str, tenant: UUID | None = None) -> set[UUID]:
        """The tenant's event ids that a store has, in its table or kept beside it."""
        table = self.store(side).table
        rows = await self._rows(
            side, f'select event_id from "{table}" where tenant_id = $1', tenant or self.tenant
        )
        return {row[0] for row in rows} | await self.rescued(side)

    async def rescued(self, side: str) -> set[UUID]:
        query = "select event_id from eventsource_rescued_events where tenant_id::text = $1"
        return {row[0] for row in await self._rows(side, query, str(self.tenant))}

    async def _rows(self, side: str, query: str, *values: object) -> list[asyncpg.Record]:
        """None where the database is empty."""
        with contextlib.suppress(asyncpg.UndefinedTableError):
            return await self.sql(side, query, *values)
        return []

    async def migration(self) -> asyncpg.Record | None:
        rows = await self.sql(
            "control",
            "select id, state, error_message, driver_expires_at > now() as driven"
            " from tenant_migrations where tenant_id = $1 order by created_at desc limit 1",
            str(self.tenant),
        )
        return rows[0] if rows else None

    # What the application does.

    def write(self) -> None:
        """Writers begin."""
        self._names += 1
        config = WriterConfig(
            name=f"writer-{self._names}",
            stores={SHARED: self.store("source"), DEDICATED: self.store("target")},
            source=SHARED,
            control_dsn=self.dsns["control"],
            tenants=[self.tenant, self.bystander],
            tasks=3,
            appends_per_second=15.0,
            max_events=2,
            shared_streams=1,
            expect_any=0.0,
            directory=self.directory,
            seed=self._names,
        )
        self.writers.append(WriterProcess.start(config))

    async def acknowledged(self, more: int) -> None:
        for writer in self.writers:
            await asyncio.to_thread(writer.wait_for_acknowledged, more, self.tenant)

    async def end_writers(self) -> None:
        for writer in self.writers:
            await asyncio.to_thread(writer.stop)
        self.ended += self.writers
        self.writers = []

    def attempts(self, writers: Sequence[WriterProcess]) -> list[Attempt]:
        return [attempt for writer in writers for attempt in writer.attempts()]

    # What happens to a migration before the disaster.

    async def advance(self, moment: Moment) -> None:
        """Bring the move to a moment, and leave it there without a driver."""
        match moment:
            case "before":
                return
            case "copy":
                await self._drive(["start", "follow"], armed="bulk.chunk.committed=kill@2")
            case "dual_write":
                begun = await self.migration() is not None
                await self._drive(["resume" if begun else "start", "follow"])
            case "decided":
                # Routers finish a flip by themselves: none of them may be there.
                await self.end_writers()
                await self._drive(["cutover"], armed="cutover.decision.committed=kill")
            case "after":
                if not self.writers:
                    self.write()
                await self.routers_are_ready()
                await self._drive(["cutover"])
                await self.acknowledged(15)

    async def routers_are_ready(self) -> None:
        """None of them says that it could not write at the target, as one does after an outage.

        One that has ended said so last at most 15 seconds ago.
        """
        query = (
            "select count(*) = 0 from migration_router_reports"
            " where not ready and seen_at > now() - interval '15 seconds'"
        )

        async def ready() -> bool:
            return bool((await self.sql("control", query))[0][0])

        await until(ready, "routers that are ready", 30)

    async def _drive(self, steps: list[str], armed: str = "") -> None:
        self._names += 1
        async with self.world() as world:
            driver: Process = start_driver(
                world, f"driver-{self._names}", armed, self.directory,
                tenant=str(self.tenant), steps=steps, config=CONFIG,
            )  # fmt: skip
        code = await asyncio.to_thread(driver.wait, 90)
        assert (code == 0) is (not armed), driver.output()

    # What happens to the servers.

    def snapshot(self, sides: Sequence[str]) -> None:
        """Copy the volumes of stopped servers; whoever is connected has an outage."""
        for side in sides:
            server = self.servers[side]
            server._checked("stop", "-m", "fast")
            copy = server.directory / f"copy-{uuid4().hex[:6]}"
            _copy(server.data_dir, copy)
            self.copies[side] = copy
            server.restart()

    async def follow(self, sides: Sequence[str]) -> None:
        """Standbys that receive nothing more from now on."""
        for side in sides:
            standby = await asyncio.to_thread(Standby.of, self.servers[side])
            self.standbys[side] = standby
            await standby.caught_up(self.servers[side])
            connection = await asyncpg.connect(standby.dsn())
            await connection.execute("alter system set primary_conninfo = ''")
            await connection.execute("select pg_reload_conf()")
            await until(
                lambda c=connection: c.fetchval("select count(*) = 0 from pg_stat_wal_receiver"),  # type: ignore[misc]
                "the standby to be cut off",
            )
            await connection.close()

    async def fail_over(self, sides: Sequence[str]) -> None:
        """The standbys take over under the addresses of their primaries."""
        for side in sides:
            standby, server = self.standbys.pop(side), self.servers[side]
            await asyncio.to_thread(standby.promote)
            await asyncio.to_thread(standby._checked, "stop", "-m", "fast")
            copy = server.directory / f"copy-{uuid4().hex[:6]}"
            await asyncio.to_thread(_copy, standby.data_dir, copy)
            with (copy / "postgresql.conf").open("a") as configuration:
                configuration.write(f"unix_socket_directories = '{server.socket_dir}'\n")
            await asyncio.to_thread(standby.stop)
            self.copies[side] = copy
        await self.restore(sides)

    async def restore(self, sides: Sequence[str]) -> None:
        """Put the volumes back."""
        for side in sides:
            server = self.servers[side]
            await asyncio.to_thread(server.crash)
            shutil.rmtree(server.data_dir)
            await asyncio.to_thread(_copy, self.copies[side], server.data_dir)
            await asyncio.to_thread(server.restart)

    async def empty(self, side: str) -> None:
        """The same server, and nothing in the database."""
        name = urlsplit(self.dsns[side]).path.lstrip("/")
        await self.servers[side].drop_database(name)
        await self.servers[side].create_database(name)

    async def log_in_as_application(self, side: str) -> None:
        """From here on everybody has a login of the application's own, and its password."""
        parts = urlsplit(self.dsns[side])
        role, password = f"app_{uuid4().hex[:8]}", uuid4().hex
        await self.sql(side, f"create role {role} superuser login password '{password}'")
        place = parts.netloc.rpartition("@")[2]
        self.dsns[side] = urlunsplit(parts._replace(netloc=f"{role}:{password}@{place}"))
        self.write_config()

    async def rotate(self, side: str) -> None:
        """The application's login gets another password, and its open sessions end."""
        parts, password = urlsplit(self.dsns[side]), uuid4().hex
        assert parts.username is not None
        await self.sql(side, f"alter role {parts.username} password '{password}'")
        place = parts.netloc.rpartition("@")[2]
        self.dsns[side] = urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@{place}"))
        await self.sql(
            side,
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where usename = current_user and pid <> pg_backend_pid()",
        )

    # What the operator types.

    @property
    def config(self) -> Path:
        return self.directory / "eventsource.toml"

    def write_config(self, **dsns: str) -> None:
        where = {**self.dsns, **dsns}
        self.config.write_text(
            f'default_store = "{SHARED}"\n'
            f"control = {{ dsn = {json.dumps(where['control'])} }}\n"
            f"[stores.{SHARED}]\ndsn = {json.dumps(where['source'])}\ntable = 'events_shared'\n"
            f"[stores.{DEDICATED}]\ndsn = {json.dumps(where['target'])}\n"
            "table = 'events_dedicated-a'\n[defaults]\npass_interval_seconds = 0.05\n"
        )

    async def type(self, command: str, *, exit_code: int | None = 0) -> str:
        """A command as the page has it; its output."""
        migration = await self.migration() if "MIGRATION" in command else None
        words = [
            str(migration["id"]) if word == "MIGRATION" and migration else word
            for word in command.split()
        ]
        process = self._popen(words)
        output, _ = await asyncio.to_thread(process.communicate, timeout=120)
        # Shown when the drill fails, as that of `work` is.
        print(f"$ {command}\n{output}")
        assert exit_code in (None, process.returncode), f"{command}: {output}"
        return output

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """`eventsource-migrate work` until the end of the block."""
        process = self._popen(["work"])
        try:
            yield
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=30)
            (self.directory / "work.log").write_text(output)
            print(f"$ work\n{output}")

    def _popen(self, words: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from eventsource.cli import main; main()",
             "--config", str(self.config), *words],
            cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={"PYTHONPATH": f"{REPOSITORY}/python", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    async def close(self) -> None:
        await self.end_writers()
        for standby in self.standbys.values():
            standby.stop()
        for copy in self.copies.values():
            shutil.rmtree(copy, ignore_errors=True)


def _copy(directory: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", str(directory), str(to)], check=True)


@contextlib.asynccontextmanager
async def open_stage(servers: dict[str, Cluster], directory: Path) -> AsyncIterator[Stage]:
    """Fresh databases with a past of two tenants."""
    for server in servers.values():
        if not server.is_running:
            server.restart()
    dsns = {side: await server.create_database() for side, server in servers.items()}
    stage = Stage(servers, dsns, directory)
    async with two_servers(dsns["source"], dsns["target"], dsns["control"], directory) as world:
        await PostgreSQLCheckpointRepository(world.control_pool).create_schema()
        await world.seed([stage.tenant, stage.bystander], PAST, streams=20)
    stage.write_config()
    try:
        yield stage
    finally:
        await stage.close()


def described(record: Any) -> str:
    return "no migration" if record is None else f"{record['state']}: {record['error_message']}"
