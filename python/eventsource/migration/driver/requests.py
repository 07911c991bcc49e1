"""A pause that is asked for while the stores cannot be reached.

It needs the control database alone: the driver that has the lease writes the state, and nothing is
under way at the stores that could go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import asyncpg

from eventsource import failpoints
from eventsource.migration.errors import InvalidStateTransitionError
from eventsource.migration.failures import PASSING
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.driver.lease import Lease
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository

#: How often a driver that waits for the stores looks for a request (seconds).
LOOK_SECONDS = 0.5

_PAUSABLE = (MigrationState.PENDING, MigrationState.BULK_COPY, MigrationState.DUAL_WRITE)


class Paused(Exception):
    """The migration was paused while its driver waited; there is nothing left to drive."""


async def pause_without_stores(migrations: PostgreSQLMigrationRepository, lease: Lease) -> bool:
    """Carry a requested pause out, unless another driver has the lease; whether that was done.

    An abort that is asked for too comes first, and needs the stores.
    """
    migration = await migrations.get(lease.migration_id)
    if (
        not migration.pause_requested
        or migration.abort_requested is not None
        or migration.state not in _PAUSABLE
    ):
        return False
    # Between two attempts nobody has the lease.
    if not await lease.acquire(migrations):
        return False
    try:
        await pause(migrations, migration, lease.owner)
    except InvalidStateTransitionError:
        return False
    return True


async def pause(
    migrations: PostgreSQLMigrationRepository, migration: Migration, owner: UUID
) -> Migration:
    """Write the state, for the driver that has the lease."""
    paused = await migrations.transition(migration, MigrationState.PAUSED, owner=owner)
    await failpoints.reach("pause.committed")
    return paused


async def is_paused_within(
    seconds: float, migrations: PostgreSQLMigrationRepository, lease: Lease
) -> bool:
    """Wait, but not past a pause, which is carried out; whether there was one."""
    ends = time.monotonic() + seconds
    while True:
        left = ends - time.monotonic()
        await asyncio.sleep(max(0.0, min(LOOK_SECONDS, left)))
        # A control database that does not answer either is waited for like the stores.
        with contextlib.suppress(*PASSING, asyncpg.PostgresError):
            async with asyncio.timeout(LOOK_SECONDS * 4):
                if await pause_without_stores(migrations, lease):
                    return True
        if left <= LOOK_SECONDS:
            return False
