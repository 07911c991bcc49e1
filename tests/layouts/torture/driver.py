"""A process that drives a move of a layout's tenant, step by step, as a job says it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from eventsource.migration import CutoverTimeoutError, Migration, MigrationState, background
from eventsource.migration.errors import ConsistencyError, MigrationError
from eventsource.migration.failures import may_pass
from eventsource.migration.journaled import large_pass, passes
from eventsource.migration.layouts.presets import presets
from eventsource.migration.tables import deferred_indexes
from tests.support.worlds.layouts import LayoutWorld


def run(job: dict[str, Any]) -> None:
    """The whole process; `play` says what a job has."""
    asyncio.run(_Steps(job).run())


class _Steps:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.tenant = job, job["tenant"]

    async def run(self) -> None:
        background.POLL_SECONDS = 0.01
        passes.EXACT_KEYS = self.job["sizes"]["exact_keys"]
        large_pass.PORTION = self.job["sizes"]["portion"]
        # An empty target is loaded without the indexes that can do without.
        deferred_indexes.WORTH_IT = 20
        layout = presets()[self.job["preset"]]
        # Nothing is connected yet: the servers may be down.
        self.world = LayoutWorld(layout, self.job["dsns"], None, None, None)  # type: ignore[arg-type]
        self.coordinator = await self.world.process(**self.job["config"])
        for step in self.job["steps"]:
            await getattr(self, step)()
        await self.coordinator.close()

    async def migration(self) -> Migration | None:
        """The newest of the tenant."""
        found = await self.coordinator.get_migrations_by_tenant(self.tenant)
        return found[-1] if found else None

    async def _id(self) -> UUID:
        migration = await self.migration()
        if migration is None:
            raise LookupError("there is no migration")
        return migration.id

    async def start(self) -> None:
        await self.world.start(self.tenant)

    async def follow(self) -> None:
        migration = await self.migration()
        assert migration is not None
        await self.world.reaches(migration, MigrationState.DUAL_WRITE, 600)

    async def cutover(self) -> None:
        while True:
            try:
                await self.coordinator.initiate_cutover(await self._id())
                return
            except CutoverTimeoutError:
                # As the operator would: it is back in dual-write and may be asked again.
                await asyncio.sleep(0.05)

    async def pause(self) -> None:
        await self.coordinator.pause_migration(await self._id())

    async def resume(self) -> None:
        await self.coordinator.resume_migration(await self._id())

    async def abort(self) -> None:
        await self.coordinator.abort_migration(await self._id())

    async def settle(self) -> None:
        """Bring it to an end, wherever it stands: what an operator does after an accident."""
        while True:
            try:
                if await self._settled():
                    return
            except ConsistencyError:
                raise
            except MigrationError:
                pass  # somebody was faster, or it failed: the journal says what is next
            except Exception as error:
                if not may_pass(error):
                    raise
            await asyncio.sleep(0.05)

    async def _settled(self) -> bool:
        migration = await self.migration()
        if migration is None:
            await self.start()
            return False
        if migration.state in (MigrationState.ROLLED_BACK, MigrationState.MIGRATED):
            return True
        if migration.state is MigrationState.FAILED or self.job["end"] == "abort":
            await self.abort()
        elif migration.state is MigrationState.PAUSED:
            await self.resume()
        else:
            await self.cutover()
        return False
