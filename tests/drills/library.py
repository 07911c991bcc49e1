"""Disasters under tables of other libraries, whose application knows nothing of a router."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from eventsource.testing import Cluster
from tests.drills.play import PATIENCE, UNNOTICED, answer
from tests.drills.stage import Stage, described
from tests.drills.table import MOMENTS, Drill, Moment
from tests.support.appending_libraries import MARTEN, Library
from tests.support.waiting import until
from tests.support.worlds.two_servers import DEDICATED, SHARED

#: What a sent-on append has for its SQLSTATE.
ELSEWHERE = "EVF01"


@dataclass
class LibraryStage(Stage):
    """``acknowledged_events`` are those of the tenant, since the application last began."""

    library: Library = MARTEN
    acknowledged_events: set[str] = field(default_factory=set)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    # What is there.

    async def held(self, side: str, tenant: UUID | None = None) -> set[UUID]:
        found = await self._rows(side, self.library.events, str(tenant or self.tenant))
        return {UUID(row[0]) for row in found} | await self.rescued(side)

    async def at(self, side: str, tenant: UUID | None = None) -> set[UUID]:
        """The events in the library's own table."""
        found = await self._rows(side, self.library.events, str(tenant or self.tenant))
        return {UUID(row[0]) for row in found}

    async def rescued(self, side: str) -> set[UUID]:
        layout = self.library.layout
        kept = await self._rows(
            side, f"select row ->> '{layout.event_id}' from {layout.schema or 'public'}"
            ".eventsource_rescued_rows where table_name = $1 and tenant_id = $2",
            layout.events, str(self.tenant),
        )  # fmt: skip
        return {UUID(row[0]) for row in kept}

    # What the application does: it appends where it last could, and goes on when it is sent on.

    def write(self) -> None:
        self.acknowledged_events = set()
        self._tasks = [
            asyncio.create_task(self._append(tenant))
            for tenant in (self.tenant, self.tenant, self.bystander)
        ]

    async def acknowledged(self, more: int) -> None:
        wanted = len(self.acknowledged_events) + more

        async def are_there() -> bool:
            return len(self.acknowledged_events) >= wanted

        await until(are_there, f"{more} acknowledged appends", PATIENCE)

    async def end_writers(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _append(self, tenant: UUID) -> None:
        side, number = "source", 0
        while True:
            try:
                connection = await asyncpg.connect(self.dsns[side])
                try:
                    while True:
                        number += 1
                        stream = str(UUID(int=number % 5 + 1))
                        event = await self.library.append(connection, str(tenant), stream)
                        if tenant == self.tenant:
                            self.acknowledged_events.add(event)
                        await asyncio.sleep(0.03)
                finally:
                    connection.terminate()
            except asyncpg.UniqueViolationError:
                continue  # the other one was first in that stream
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if getattr(error, "sqlstate", None) == ELSEWHERE:
                    side = "target" if side == "source" else "source"
                await asyncio.sleep(0.05)

    # What happens to a migration before the disaster.

    async def advance(self, moment: Moment) -> None:
        match moment:
            case "dual_write":
                await self.type(f"start {self.tenant} --to {DEDICATED}")
                with self.working():
                    await until(self._is_followed, "a migration that follows", PATIENCE)
            case "after":
                with self.working():
                    await self.type("cutover MIGRATION")
                await self.acknowledged(15)

    async def _is_followed(self) -> bool:
        """It makes passes, and the target has what was appended meanwhile."""
        row = await self.migration()
        if row is None or row["state"] != "dual_write":
            return False
        await self.acknowledged(3)
        now = {UUID(event) for event in self.acknowledged_events}

        async def carried() -> bool:
            return now <= await self.at("target")

        await until(carried, "the new events at the target", PATIENCE)
        return True

    def write_config(self, **dsns: str) -> None:
        where = {**self.dsns, **dsns}
        layout = self.library.preset
        self.config.write_text(
            f'default_store = "{SHARED}"\n'
            f"control = {{ dsn = {json.dumps(where['control'])} }}\n"
            f"[stores.{SHARED}]\ndsn = {json.dumps(where['source'])}\nlayout = '{layout}'\n"
            f"[stores.{DEDICATED}]\ndsn = {json.dumps(where['target'])}\nlayout = '{layout}'\n"
            "[defaults]\npass_interval_seconds = 0.05\n"
        )


async def play(stage: LibraryStage, drill: Drill, *, by_abort: bool = False) -> list[str]:
    """Every promise that was broken."""
    await _up_to_the_disaster(stage, drill)
    await (stage.restore if drill.how == "restored" else stage.fail_over)(drill.sides)
    await asyncio.sleep(UNNOTICED)
    if drill.at == "after":
        await _stray(stage)
    await stage.end_writers()
    survivors = await stage.held("source") | await stage.held("target")
    others = await stage.at("source", stage.bystander)
    found = []
    if by_abort:
        await stage.type("abort MIGRATION")
    else:
        found += await answer(stage, drill)
    if drill.at != "after":
        found += await _judge(stage, "source", survivors, others)
    # Life goes on, and the move comes to its end.
    stage.write()
    await stage.acknowledged(5)
    if by_abort:
        await stage.advance("dual_write")
    if drill.at != "after":
        with stage.working():
            await stage.type("cutover MIGRATION")
    await stage.acknowledged(5)
    await stage.end_writers()
    lost = {UUID(event) for event in stage.acknowledged_events} - await stage.at("target")
    if lost:
        found.append(f"{len(lost)} acknowledged appends are not where the tenant lives")
    if drill.at != "after":
        # Else what was written at the source since is a difference, and stays one.
        await stage.type(f"verify {stage.tenant}")
    row = await stage.migration()
    if row is None or row["state"] != "migrated":
        found.append(described(row))
    return found + await _judge(stage, "target", survivors, others)


async def _up_to_the_disaster(stage: LibraryStage, drill: Drill) -> None:
    stage.write()
    await stage.acknowledged(5)
    for moment in MOMENTS[: MOMENTS.index(drill.at) + 1]:
        if moment in ("copy", "decided"):
            continue
        await stage.advance(moment)
        if moment == drill.back_to:
            if drill.how == "restored":
                await asyncio.to_thread(stage.snapshot, drill.sides)
            else:
                await stage.follow(drill.sides)
            await stage.acknowledged(5)
    if drill.at == "dual_write":
        # It carries what its source is about to lose.
        with stage.working():
            await stage._is_followed()


async def _stray(stage: LibraryStage) -> None:
    """A process that has not heard of the move appends to the store that has forgotten it."""
    connection = await asyncpg.connect(stage.dsns["source"])
    for number in range(3):
        await stage.library.append(connection, str(stage.tenant), str(UUID(int=number + 100)))
    await connection.close()


async def _judge(
    stage: LibraryStage, home: str, survivors: set[UUID], others: set[UUID]
) -> list[str]:
    """What a store had is in one still; what is not at home is named; the bystander has all."""
    found = []
    gone = survivors - await stage.held("source") - await stage.held("target")
    if gone:
        found.append(f"{len(gone)} events that a store had are in none: {sorted(gone)[:3]}")
    silent = survivors - await stage.at(home) - await _named(stage)
    if silent:
        found.append(f"{len(silent)} events are not at home, and not named: {sorted(silent)[:3]}")
    if others - await stage.at("source", stage.bystander):
        found.append("the bystander lost events")
    return found


async def _named(stage: LibraryStage) -> set[UUID]:
    file = stage.directory / "stranded.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    ids = [json.loads(line)["event_id"] for line in lines]
    return {UUID(each) for each in ids if each} | await stage.rescued("target")


@contextlib.asynccontextmanager
async def open_library_stage(
    servers: dict[str, Cluster], directory: Path, library: Library
) -> AsyncIterator[LibraryStage]:
    """Fresh databases with the library's tables, and a past of two tenants."""
    for server in servers.values():
        if not server.is_running:
            server.restart()
    dsns = {side: await server.create_database() for side, server in servers.items()}
    stage = LibraryStage(servers, dsns, directory, library=library)
    for side in ("source", "target"):
        connection = await asyncpg.connect(dsns[side])
        await library.make(connection)
        for tenant in (stage.tenant, stage.bystander) if side == "source" else ():
            for number in range(60):
                await library.append(connection, str(tenant), str(UUID(int=number % 5 + 1)))
        await connection.close()
    stage.write_config()
    await stage.type("init")
    try:
        yield stage
    finally:
        await stage.close()
