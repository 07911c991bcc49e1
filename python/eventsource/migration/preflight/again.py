"""What is asked again before anything is asked of a migration that is under way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from eventsource.errors import EventSourceError
from eventsource.migration.connections.driver_connections import Endpoints
from eventsource.migration.errors import PreflightError, StoreMismatchError
from eventsource.migration.event_table import of_store
from eventsource.migration.failures import PASSING
from eventsource.migration.preflight import access
from eventsource.migration.tables import identities

if TYPE_CHECKING:
    from eventsource.migration.connections.kept import KeptSessions
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore

#: How long a call waits for the stores to say which places they are (seconds).
ASKED_SECONDS = 2.0


async def refuse(
    migration: Migration,
    stores: tuple[PostgreSQLEventStore, PostgreSQLEventStore],
    migrations: PostgreSQLMigrationRepository,
    kept: KeptSessions,
) -> None:
    """What this process calls the stores is where they are, and its role may change the guard.

    A store that cannot be asked now is left to the driver.

    Raises:
        StoreMismatchError: one of them is another place here.
        PreflightError: the guard's functions are another role's.
    """
    try:
        async with asyncio.timeout(ASKED_SECONDS):
            source, target = [await of_store(store) for store in stores]
            await identities.check(migration, source, target)
            endpoints = await Endpoints.at(migrations, source, target, kept)
            await access.refuse_functions_of_others(endpoints)
    except (StoreMismatchError, PreflightError):
        raise
    except (*PASSING, asyncpg.PostgresError, EventSourceError):
        return
