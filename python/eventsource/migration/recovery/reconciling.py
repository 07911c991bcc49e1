"""Reconciling from outside of a driver: under a lease, on connections of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventsource.migration.connections.driver_connections import DriverConnections, Endpoints
from eventsource.migration.driver.lease import Lease
from eventsource.migration.errors import MigrationError
from eventsource.migration.failures import first_of
from eventsource.migration.recovery.reconcile import reconcile
from eventsource.migration.tables import identities

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.migration.recovery.report import StrandedEvent
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore


async def reconcile_migration(
    migrations: PostgreSQLMigrationRepository,
    migration: Migration,
    source: PostgreSQLEventStore,
    target: PostgreSQLEventStore,
    *,
    put_back: bool = False,
    operator: str | None = None,
) -> list[StrandedEvent]:
    """Bring the target in line with a source that has gone back; what only the target had.

    Raises:
        MigrationError: a driver has it in hand.
        RepairNeededError: two events of one version; see :func:`reconcile`.
        StoreMismatchError: a store is another place here.
    """
    lease = Lease(migration.id)
    if not await lease.acquire(migrations):
        raise MigrationError(
            f"driver {migration.driver_name} has migration {migration.id} in hand; nothing was"
            " changed: stop it and ask again"
        )
    connections = None
    try:
        endpoints = await Endpoints.of(migrations, source, target)
        connections = await DriverConnections.open(endpoints, migration.id)
        await identities.check(migration, connections.source, connections.target)
        await lease.take_over(connections)
        # A large tenant takes longer than a lease.
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(_renew(lease, migrations, migration))
            events = await reconcile(connections, migration, lease.owner, put_back=put_back)
            renewing.cancel()
        await migrations.record_error(migration.id, lease.owner, None)
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
    finally:
        if connections is not None:
            await connections.close()
        await lease.try_to_release(migrations)
    await migrations.audit(
        migration.id, "reconciled",
        {
            "only_at_the_target": [str(event.event_id) for event in events],
            "put_back": sum(event.was_put_back for event in events),
        },
        operator,
    )  # fmt: skip
    return events


async def _renew(
    lease: Lease, migrations: PostgreSQLMigrationRepository, migration: Migration
) -> None:
    while True:
        await asyncio.sleep(migration.config.lease_seconds / 3)
        await lease.renew(migrations)
