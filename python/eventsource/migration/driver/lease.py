"""The lease: which of several drivers carries a migration on.

It lies in the journal and ends by itself when it is not renewed, so nobody has to notice that a
driver died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventsource import failpoints
from eventsource.connections import one_of
from eventsource.migration.connections.driver_connections import DriverConnections
from eventsource.migration.connections.waits import FOR_A_PLACE, WAITING
from eventsource.migration.errors import LeaseLostError
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository

if TYPE_CHECKING:
    from eventsource.migration.models import Migration


#: How the name begins under which all stores of a server count; its cluster's identifier follows.
SERVER = "server "


class NoPlaceError(Exception):
    """There is no room for one more migration now.

    Its text goes into the journal.
    """

    def __init__(self, full: Sequence[str], limits: Mapping[str, int]) -> None:
        where = ", ".join(f"{_named(name)} has {limits[name]}" for name in full)
        super().__init__(
            f"{WAITING} {FOR_A_PLACE}: {where} under way, which is what its server has connections"
            " for (max_moves_per_store); it begins when one of them is done"
        )


def _named(name: str) -> str:
    if not name:
        return "the control database"
    return f"the {name}" if name.startswith(SERVER) else f"store {name!r}"


def process_name() -> str:
    """What a driver of this process is called in the journal."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Lease:
    """One driver's claim on one migration.

    Attributes:
        owner: the token of the driver, compared wherever it writes.
        stale: the expiry of a lease that this process saw unrenewed for its whole length.
    """

    migration_id: UUID
    owner: UUID = field(default_factory=uuid4)
    stale: datetime | None = None

    async def acquire(
        self,
        migrations: PostgreSQLMigrationRepository,
        limits: Mapping[str, int] | None = None,
    ) -> bool:
        """Become the driver, or stay it; False when another one is, or only a newer version may.

        Raises:
            NoPlaceError: one of the stores has as many migrations as it has room for.
        """
        name = process_name()
        async with one_of(migrations.pool) as one:
            journal = PostgreSQLMigrationRepository(one)
            seconds = (await journal.get(self.migration_id)).config.lease_seconds
            taken, full = await journal.acquire_place(
                self.migration_id, self.owner, name, seconds, limits or {}, self.stale
            )
        if full:
            raise NoPlaceError(full, limits or {})
        await failpoints.reach("lease.committed")
        return taken

    async def take_over(self, connections: DriverConnections, seconds: float | None = None) -> None:
        """Be the only one who does anything at the stores; for connections just opened.

        The lease is renewed first: opening the connections may have taken most of it, and the
        driver that got it next would end the sessions just opened.

        Args:
            seconds: how long the lease is, if the journal was just read.

        Raises:
            LeaseLostError: another driver has the migration; its sessions are left alone.
        """
        await self.renew(connections.migrations, seconds)
        await connections.end_others(self.migration_id)

    async def renew(
        self, migrations: PostgreSQLMigrationRepository, seconds: float | None = None
    ) -> None:
        """Keep the lease for its whole length from now.

        Raises:
            LeaseLostError: another driver has it.
        """
        if seconds is None:
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


class LeasesSeen:
    """Which leases are over, also by this process's own clock.

    The control database's clock may jump: a lease that was written by a clock an hour ahead would
    keep everybody away for an hour. So it is believed no longer than its length, counted from when
    this process first saw it as it is; a driver that lives renews it three times in that time.
    """

    def __init__(self) -> None:
        self._seen: dict[UUID, tuple[datetime, float]] = {}

    def is_over(self, migration: Migration) -> bool:
        """Whether the migration may be taken up, as far as this process can know."""
        expiry = migration.driver_expires_at
        if expiry is None or not migration.driver_alive:
            self._seen.pop(migration.id, None)
            return True
        now = time.monotonic()
        known, since = self._seen.get(migration.id, (None, now))
        if known != expiry:
            self._seen[migration.id] = expiry, now
            return False
        return now - since > migration.config.lease_seconds
