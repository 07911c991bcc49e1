"""The driver: carries one migration on from wherever the databases say it stands.

Nothing is remembered between two drivers. Whatever process takes the lease reads the journal, the
progress row and the fence, and goes on; a driver that dies leaves nothing that the next one needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from eventsource import failpoints
from eventsource.connections import redact
from eventsource.dataplane import DataPlaneError
from eventsource.migration import failures
from eventsource.migration.connections.driver_connections import DriverConnections, Endpoints
from eventsource.migration.driver.heartbeat import Heartbeat
from eventsource.migration.driver.stages import Stages
from eventsource.migration.errors import LeaseLostError, MigrationError
from eventsource.migration.failures import PASSING, first_of, may_pass
from eventsource.migration.states import MigrationState, may_follow

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository

_log = logging.getLogger(__name__)

#: Compares both stores; raises ConsistencyError.
Verify = Callable[["Migration"], Awaitable[None]]

#: Waits between two attempts after a lost connection, in seconds.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 5.0


@dataclass(slots=True)
class Driver:
    """Drives one migration under a lease.

    Args:
        endpoints: where the three databases are.
        migrations: the journal over the application's pool, used before the driver's own
            connections are open and when they are lost.
        verify: compares both stores before the fence is asked for.
    """

    migration_id: UUID
    endpoints: Endpoints
    migrations: PostgreSQLMigrationRepository
    verify: Verify
    owner: UUID = field(default_factory=uuid4)
    #: What it is at when that decides how a failure is answered: an abort or a recovery.
    doing: str = ""

    async def run(self) -> None:
        """Carry the migration on until it is final or paused, or another driver has it.

        Lost connections are tried again for ever; the journal says what the driver waits for.
        """
        try:
            await self._drive_again_and_again()
        except asyncio.CancelledError:
            # Nobody should have to wait for the lease of a driver that was stopped.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self.migrations.release_lease(self.migration_id, self.owner)
            raise

    async def _drive_again_and_again(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            try:
                if await self._take_lease():
                    await self._drive()
                return
            except LeaseLostError:
                return
            except Exception as error:
                if isinstance(error, DataPlaneError) and error.kind == "ownership_lost":
                    return
                if may_pass(error):
                    await self._tell(error)
                elif await self._fail(error):
                    return
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    async def _take_lease(self) -> bool:
        """Become the driver, or stay it; False when another one is."""
        name = f"{socket.gethostname()}:{os.getpid()}"
        seconds = (await self.migrations.get(self.migration_id)).config.lease_seconds
        taken = await self.migrations.acquire_lease(self.migration_id, self.owner, name, seconds)
        await failpoints.reach("lease.committed")
        return taken

    async def _drive(self) -> None:
        links = await DriverConnections.open(self.endpoints, self.migration_id)
        try:
            await self.take_over(links)
            watch = await Heartbeat.start(links.watch, self.migration_id, self.owner)
            try:
                async with asyncio.TaskGroup() as group:
                    source, config = self.endpoints.source, watch.migration.config
                    sparing = group.create_task(watch.throttle.watch_source(source, config))
                    watching = group.create_task(watch.run())
                    await Stages(self, links, watch).to_the_end()
                    watching.cancel()
                    sparing.cancel()
            except BaseExceptionGroup as errors:
                raise first_of(errors) from errors
            await links.migrations.release_lease(self.migration_id, self.owner)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await links.migrations.release_lease(self.migration_id, self.owner)
            raise
        finally:
            await links.close()

    async def take_over(self, links: DriverConnections) -> None:
        """Be the only one who does anything at the stores; for links just opened.

        The lease begins anew: opening the links may have taken most of it, and whoever gets it
        behind this would end the sessions just opened.

        Raises:
            LeaseLostError: another driver has the migration; its sessions are left alone.
        """
        journal = links.migrations
        seconds = (await journal.get(self.migration_id)).config.lease_seconds
        if not await journal.renew_lease(self.migration_id, self.owner, seconds):
            raise LeaseLostError(f"another driver carries migration {self.migration_id} on")
        await links.end_others(self.migration_id)

    async def _tell(self, error: Exception) -> None:
        # An answer that did not come in time has no text of its own.
        reason = redact(str(error)) or "a database does not answer"
        _log.warning("migration %s waits: %s", self.migration_id, reason)
        with contextlib.suppress(*PASSING, asyncpg.PostgresError):
            await self.migrations.record_error(self.migration_id, self.owner, f"waiting: {reason}")

    async def _fail(self, error: Exception) -> bool:
        """Record why the migration cannot go on, and answer whoever waits for a cutover.

        False when it goes on another way: only the fence says how a cutover ended, and an abort
        that somebody has asked for is still to be carried out.
        """
        _log.error("migration %s stopped: %s", self.migration_id, redact(str(error)))
        _log.debug("where it stopped", exc_info=error)
        with contextlib.suppress(*PASSING, asyncpg.PostgresError, MigrationError):
            migration = await self.migrations.get(self.migration_id)
            told = failures.describe(error)
            if migration.cutover_request is not None:
                await self.migrations.answer_cutover(migration.id, migration.cutover_request, told)
            undecided = migration.state is MigrationState.CUTOVER_PAUSED
            if undecided or (migration.abort_requested is not None and self.doing != "abort"):
                await self.migrations.record_error(migration.id, self.owner, told["message"])
                if self.doing == "recovery":
                    await self.migrations.withdraw_abort(migration.id)
                return False
            if may_follow(migration.state, MigrationState.FAILED):
                await self.migrations.transition(
                    migration,
                    MigrationState.FAILED,
                    owner=self.owner,
                    details=told,
                    error=(told["code"], told["message"]),
                )
            else:
                await self.migrations.record_error(migration.id, self.owner, told["message"])
            if self.doing == "abort":
                # Whoever asked is told; an abort asked for since is the next driver's to begin.
                await self.migrations.withdraw_abort(migration.id)
            await self.migrations.release_lease(self.migration_id, self.owner)
        return True
