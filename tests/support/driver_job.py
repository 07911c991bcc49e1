"""What a process that drives a migration does, step by step, as a job tells it.

A job is a JSON document: ``dsns`` of source, target and control, ``directory`` for files,
``tenant`` or ``migration``, ``config`` of the migration, and ``steps``. How the process is started,
and how it ends, is the caller's: see `driver_process` and `tests/faults/processes.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsource.migration import (
    CutoverTimeoutError,
    Migration,
    MigrationConfig,
    MigrationState,
    PositionMapper,
    RetryLaterError,
    SubscriptionMigrator,
)
from eventsource.migration.errors import ConsistencyError, MigrationError
from eventsource.migration.failures import may_pass
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from eventsource.migration.steps import cleanup
from eventsource.migration.tables import deferred_indexes
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from tests.support.afterwards_job import Afterwards
from tests.support.worlds.two_servers import DEDICATED, SHARED, World, two_servers

#: The subscription that moves with every tenant.
SUBSCRIPTION = "projection"


async def drive(job: dict[str, Any]) -> None:
    """Take the steps of a job."""
    # The indexes of an empty table are deferred for large tenants only: this makes a small one do.
    deferred_indexes.WORTH_IT = job.get("large_from", deferred_indexes.WORTH_IT)
    cleanup.PORTION = job.get("portion", cleanup.PORTION)
    config = MigrationConfig(**job.get("config", {}))
    source_dsn, target_dsn, control_dsn = job["dsns"]
    async with two_servers(
        source_dsn,
        target_dsn,
        control_dsn,
        Path(job["directory"]),
        config,
        target_table=job.get("target_table", "events_dedicated-a"),
        make=job.get("make", True),
    ) as world:
        steps = Steps(world, job)
        for step in job["steps"]:
            await steps.take(step)


@dataclass(slots=True)
class Steps:
    """One job on an open world."""

    world: World
    job: dict[str, Any]

    async def take(self, step: str) -> None:
        name, _, argument = step.partition(":")
        if name == "stay":
            await asyncio.Event().wait()
        elif name == "gate":
            # Opened by whoever gave the job.
            while not (self.world.directory / argument).exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        else:
            known: dict[str, Callable[[], Awaitable[object]]] = {
                "start": self._start,
                "follow": self._follow,
                "rehearse": self._rehearse,
                "cutover": self._cut_over,
                "move": self._move,
                "pause": self._pause,
                "resume": self._resume,
                "abort": self._abort,
                "subscriptions": self._move_subscriptions,
                "settle": self._settle,
            }
            if "tenant" in self.job:
                known |= self._afterwards.steps
            await known[name]()

    @property
    def _afterwards(self) -> Afterwards:
        home = self.job.get("home", SHARED)
        return Afterwards(self.world, UUID(self.job["tenant"]), SUBSCRIPTION, home)

    async def migration(self) -> Migration | None:
        """The job's, or the newest of the job's tenant."""
        coordinator = self.world.coordinator
        if "migration" in self.job:
            return await coordinator.get_migration(UUID(self.job["migration"]))
        found = await coordinator.get_migrations_by_tenant(UUID(self.job["tenant"]))
        return found[-1] if found else None

    async def _id(self) -> UUID:
        migration = await self.migration()
        if migration is None:
            raise LookupError("there is no migration")
        return migration.id

    async def _start(self) -> None:
        await self.world.start(UUID(self.job["tenant"]))

    async def _follow(self) -> None:
        await self.world.reach(await self._id(), MigrationState.DUAL_WRITE)

    async def _cut_over(self) -> None:
        while True:
            try:
                await self.world.coordinator.initiate_cutover(await self._id())
                return
            except CutoverTimeoutError:
                # As the operator would: it is back in dual-write and may be asked again.
                await asyncio.sleep(0.05)

    async def _move(self) -> None:
        """As a queue does that delivers until it is done, with twice the time each time."""
        seconds = self.job.get("seconds")
        while True:
            until = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
            try:
                await self.world.coordinator.move(
                    UUID(self.job["tenant"]), SHARED, DEDICATED, until=until
                )
                return
            except RetryLaterError:
                await asyncio.sleep(0.05)
                seconds = None if seconds is None else 2 * seconds

    async def _rehearse(self) -> None:
        with contextlib.suppress(CutoverTimeoutError):
            await self.world.coordinator.rehearse_cutover(await self._id())

    async def _pause(self) -> None:
        await self.world.coordinator.pause_migration(await self._id())

    async def _resume(self) -> None:
        await self.world.coordinator.resume_migration(await self._id())

    async def _abort(self) -> None:
        await self.world.coordinator.abort_migration(await self._id())

    async def _move_subscriptions(self) -> None:
        migration = await self.migration()
        assert migration is not None
        migrator = SubscriptionMigrator(
            PositionMapper(
                PostgreSQLPositionMappingRepository(self.world.control_pool),
                self.world.router.stores,
            ),
            PostgreSQLCheckpointRepository(self.world.control_pool),
        )
        summary = await migrator.migrate_subscriptions(
            migration.id, migration.tenant_id, [SUBSCRIPTION]
        )
        failed = [result.error for result in summary.results if not result.success]
        if failed:
            raise RuntimeError(f"the subscription did not move: {failed}")

    async def _settle(self) -> None:
        """Bring it to an end, wherever it stands: what an operator does after an accident.

        The job's ``end`` says which one is wanted while it is still open. What failed is aborted.
        """
        while True:
            try:
                if await self._settled():
                    return
            except ConsistencyError:
                raise  # nobody changes rows behind the migration's back here: it lost some
            except MigrationError:
                pass  # somebody was faster, or it failed: the journal says what is next
            except Exception as error:
                if not may_pass(error):
                    raise
            await asyncio.sleep(0.05)

    async def _settled(self) -> bool:
        end = self.job.get("end", "cutover")
        if end in ("return", "stay", "close", "cleanup"):
            if not await self._afterwards.settled(end):
                return False
            newest = await self.migration()
            if newest is not None and newest.state is MigrationState.MIGRATED:
                await self._move_subscriptions()
            return True
        migration = await self.migration()
        if migration is None:
            await self._start()
            return False
        if migration.state is MigrationState.ROLLED_BACK:
            return True
        if migration.state is MigrationState.MIGRATED:
            await self._move_subscriptions()
            return True
        if migration.state is MigrationState.FAILED or self.job.get("end") == "abort":
            await self._abort()
        elif migration.state is MigrationState.PAUSED:
            await self._resume()
        else:
            await self._cut_over()
        return False
