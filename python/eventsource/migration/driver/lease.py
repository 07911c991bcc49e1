"""The lease: which of several drivers carries a migration on.

It lies in the journal and ends by itself when it is not renewed, so nobody has to notice that a
driver died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from eventsource import failpoints
from eventsource.migration.connections.driver_connections import DriverConnections
from eventsource.migration.errors import LeaseLostError
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository


@dataclass(frozen=True, slots=True)
class Lease:
    """One driver's claim on one migration.

    Attributes:
        owner: the token of the driver, compared wherever it writes.
    """

    migration_id: UUID
    owner: UUID = field(default_factory=uuid4)

    async def acquire(self, migrations: PostgreSQLMigrationRepository) -> bool:
        """Become the driver, or stay it; False when another one is."""
        name = f"{socket.gethostname()}:{os.getpid()}"
        seconds = (await migrations.get(self.migration_id)).config.lease_seconds
        taken = await migrations.acquire_lease(self.migration_id, self.owner, name, seconds)
        await failpoints.reach("lease.committed")
        return taken

    async def take_over(self, connections: DriverConnections) -> None:
        """Be the only one who does anything at the stores; for connections just opened.

        The lease is renewed first: opening the connections may have taken most of it, and the
        driver that got it next would end the sessions just opened.

        Raises:
            LeaseLostError: another driver has the migration; its sessions are left alone.
        """
        await self.renew(connections.migrations)
        await connections.end_others(self.migration_id)

    async def renew(self, migrations: PostgreSQLMigrationRepository) -> None:
        """Keep the lease for its whole length from now.

        Raises:
            LeaseLostError: another driver has it.
        """
        seconds = (await migrations.get(self.migration_id)).config.lease_seconds
        if not await migrations.renew_lease(self.migration_id, self.owner, seconds):
            raise LeaseLostError(f"another driver carries migration {self.migration_id} on")

    async def release(self, migrations: PostgreSQLMigrationRepository) -> None:
        """Let the next driver begin at once."""
        await migrations.release_lease(self.migration_id, self.owner)

    async def try_to_release(self, migrations: PostgreSQLMigrationRepository) -> None:
        """Release, for a driver that is being stopped: nobody should wait for its lease to end."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1):
                await self.release(migrations)
