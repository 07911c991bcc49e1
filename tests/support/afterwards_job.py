"""What a process does once its tenant has moved: return, end the way back, clean up.

Steps of a job as in `driver_job`, which calls them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from eventsource.migration import CutoverTimeoutError, Migration, MigrationError, MigrationState
from eventsource.migration.steps.cleanup import CLEANUP_LOCK_CLASS
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from tests.support.worlds.two_servers import DEDICATED, FENCE_LOCK_CLASS, SHARED, World

#: Of the newest events so many were not handled by the subscription when the tenant returns.
UNHANDLED = 3

#: What an operator reads when a frozen process still holds the clean-up's lock.
_AT_WORK = "another clean-up"


@dataclass(frozen=True, slots=True)
class Afterwards:
    """One tenant that has moved, and may have returned since.

    Attributes:
        subscription: the one that moves with the tenant.
        home: the store where a return is to end.
    """

    world: World
    tenant: UUID
    subscription: str
    home: str = SHARED

    @property
    def steps(self) -> dict[str, Callable[[], Awaitable[object]]]:
        return {
            "return": self.give_back,
            "return_refused": self.be_refused_a_return,
            "cutover_refused": self.be_refused_a_cutover,
            "follow_back": self.follow_back,
            "handled": self.handle,
            "close": self.close,
            "expire": self.expire,
            "cleanup": self.clean_up,
        }

    async def migrations(self) -> list[Migration]:
        return await self.world.coordinator.get_migrations_by_tenant(self.tenant)

    async def _last(self) -> Migration:
        """The move or return that has brought the tenant where it is."""
        found = [each for each in await self.migrations() if each.state is MigrationState.MIGRATED]
        return found[-1]

    async def give_back(self) -> None:
        while (move := await self._last()).target_store_id != self.home:
            try:
                await self.world.coordinator.return_migration(move.id)
            except CutoverTimeoutError:
                await asyncio.sleep(0.05)

    async def be_refused_a_return(self) -> None:
        """Ask for it while somebody else's transaction is in the way until its time is over."""
        move = await self._last()
        async with _in_the_way(self.world.target.dsn, self.tenant):
            with contextlib.suppress(CutoverTimeoutError):
                await self.world.coordinator.return_migration(move.id)

    async def be_refused_a_cutover(self) -> None:
        move = (await self.migrations())[-1]
        async with _in_the_way(self.world.source.dsn, self.tenant):
            with contextlib.suppress(CutoverTimeoutError):
                await self.world.coordinator.initiate_cutover(move.id)

    async def follow_back(self) -> None:
        """As `work` does from time to time."""
        await self.world.coordinator._drivers._follower.turn()

    async def handle(self) -> None:
        """The subscription goes on at the target, up to a few events before the last."""
        position = await self.world.target_store.pool.fetchval(
            f"select global_position from {self.world.target_store.table} where tenant_id = $1"
            " order by global_position desc offset $2 limit 1",
            self.tenant, UNHANDLED,
        )  # fmt: skip
        checkpoints = PostgreSQLCheckpointRepository(self.world.control_pool)
        await checkpoints.save(self.subscription, DEDICATED, position, self.tenant)

    async def close(self) -> None:
        await self.world.coordinator.close_way_back((await self._last()).id)

    async def expire(self) -> None:
        """The time of the way back is over, and processes that work notice."""
        move = await self._last()
        await self.world.control_pool.execute(
            "update tenant_migrations set completed_at = completed_at - interval '2 hours'"
            " where id = $1",
            move.id,
        )
        while not await self.is_closed():
            await self.world.coordinator._drivers._follower.turn()
            await asyncio.sleep(0.05)

    async def clean_up(self) -> None:
        move = await self._last()
        await self.world.coordinator.cleanup(move.id, backed_up=True, now=True)

    async def is_closed(self) -> bool:
        way = await self.world.coordinator.way_back((await self._last()).id)
        return way is None or way.state in ("closed", "refused")

    async def settled(self, end: str) -> bool:
        """One step to the end that is wanted; whether it is reached."""
        if end == "close":
            await self.close()
            return await self.is_closed()
        if end == "cleanup":
            return await self._cleaned()
        return await self._returned(end)

    async def _returned(self, end: str) -> bool:
        newest, coordinator = (await self.migrations())[-1], self.world.coordinator
        if newest.state in (MigrationState.MIGRATED, MigrationState.ROLLED_BACK):
            last = await self._last()
            way = await coordinator.way_back(last.id)
            if last.target_store_id == self.home:
                return True
            if way is None or way.state in ("refused", "closed"):
                # It cannot return, and the reason is in the journal.
                return True
            if way.state == "closing":
                await self.follow_back()
                return False
            if end == "return":
                await self.give_back()
                return False
            return way.is_open
        if newest.state is MigrationState.FAILED or end == "stay":
            await coordinator.abort_migration(newest.id)
        elif newest.state is MigrationState.PAUSED:
            await coordinator.resume_migration(newest.id)
        else:
            await self.give_back()
        return False

    async def _cleaned(self) -> bool:
        try:
            await self.clean_up()
        except MigrationError as error:
            if _AT_WORK not in str(error):
                raise
            # What the message says: wait for it, or end its session.
            await self.world.source_store.pool.execute(
                "select pg_terminate_backend(pid) from pg_locks"
                " where locktype = 'advisory' and classid = $1 and granted",
                CLEANUP_LOCK_CLASS,
            )
            return False
        return True


@contextlib.asynccontextmanager
async def _in_the_way(dsn: str, tenant: UUID) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A transaction of the application that does not end: no cutover gets its fence."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(
                "select pg_advisory_xact_lock_shared($1, lock_id) from eventsource_fences"
                " where tenant_id = $2",
                FENCE_LOCK_CLASS, str(tenant),
            )  # fmt: skip
            yield connection
    finally:
        await connection.close()
