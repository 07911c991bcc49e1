"""Three servers whose volumes can be copied and put back: a database that goes back in time.

The servers keep their ports, their identifiers and their timelines, as one does whose volume is
restored from a snapshot.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from eventsource.testing import Cluster
from tests.support.application import Process
from tests.support.worlds.three_databases import World, make_world, table

SIDES = ("source", "target", "control")


def _copy(directory: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", str(directory), str(to)], check=True)


def back_up(server: Cluster) -> Path:
    """Copy the volume of a server, which is stopped for it."""
    server._checked("stop", "-m", "fast")
    copy = server.directory / f"copy-{len(list(server.directory.iterdir()))}"
    _copy(server.data_dir, copy)
    server.restart()
    return copy


def put_back(server: Cluster, copy: Path) -> None:
    """The volume is as it was."""
    if server.is_running:
        server.crash()
    shutil.rmtree(server.data_dir)
    _copy(copy, server.data_dir)
    server.restart()


@contextmanager
def three_volumes():  # type: ignore[no-untyped-def]
    """A server for each side."""
    with Cluster.start(16) as source, Cluster.start(18) as target, Cluster.start(16) as control:
        yield {"source": source, "target": target, "control": control}


@dataclass
class RestorableWorld:
    """A world on servers of its own; ``world`` is as the processes of now see it."""

    servers: dict[str, Cluster]
    dsns: dict[str, str]
    world: World
    settings: dict[str, Any]

    @property
    def tenant(self) -> UUID:
        return self.world.tenant

    async def stop_process(self) -> None:
        """All processes end, without a word."""
        for process in self.world.processes:
            await process.stop()
        self.world.processes.clear()

    async def snapshot(self, *sides: str) -> dict[str, Path]:
        """Copy the volumes of stopped servers; every process is stopped for it and a new one is
        there afterwards."""
        await self.stop_process()
        copies = {}
        for side in sides:
            copies[side] = back_up(self.servers[side])
        await self.again()
        return copies

    async def restore(self, copies: dict[str, Path]) -> None:
        """Put the volumes back as they were."""
        await self.stop_process()
        for side, copy in copies.items():
            put_back(self.servers[side], copy)
        await self.again()

    async def again(self, **settings: Any) -> Process:
        """Connections and a process of now."""
        for side in SIDES:
            getattr(self.world, side).terminate()
            setattr(self.world, side, await asyncpg.connect(self.dsns[side]))
        return await self.world.process(**{**self.settings, **settings})

    async def held(self) -> set[UUID]:
        """Every event of the tenant that is in either store."""
        found: set[UUID] = set()
        for side in ("source", "target"):
            found |= set(await self.world.ids(side))
        return found

    async def fence(self, side: str) -> tuple[str, str] | None:
        row = await getattr(self.world, side).fetchrow(
            "select role, state from eventsource_fences where table_name = $1 and tenant_id = $2",
            table(side).strip('"'), str(self.tenant),
        )  # fmt: skip
        return tuple(row) if row is not None else None

    async def append(self, count: int) -> Sequence[UUID]:
        """Acknowledged appends, each in a stream of its own; their event ids."""
        ids: list[UUID] = []
        for _ in range(count):
            before = await self.held()
            await self.world.here.append(self.tenant)
            ids.extend((await self.held()) - before)
        return ids


async def open_restorable(servers: dict[str, Cluster], **settings: Any) -> RestorableWorld:
    for server in servers.values():
        if not server.is_running:
            server.restart()
    dsns = {side: await server.create_database() for side, server in servers.items()}
    world = await make_world(dsns)
    restorable = RestorableWorld(servers, dsns, world, {"lease_seconds": 1.0, **settings})
    await restorable.stop_process()
    await restorable.again()
    return restorable
