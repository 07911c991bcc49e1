"""Reconciling from outside of a driver: under a lease, on connections of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventsource.migration.connections.driver_connections import DriverConnections, Endpoints
from eventsource.migration.driver.lease import Lease
from eventsource.migration.errors import MigrationError
from eventsource.migration.failures import first_of
from eventsource.migration.journaled import reconciliation
from eventsource.migration.recovery.reconcile import reconcile
from eventsource.migration.recovery.report import StrandedEvent, StrandedRow
from eventsource.migration.tables import identities

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventsource.migration.models import Migration
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
) -> Sequence[StrandedEvent | StrandedRow]:
    """Bring the target in line with a source that has gone back; what only the target had.

    Rows of another library's tables are never put back: they stay where they are kept.

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
            found = await _reconcile(connections, migration, lease.owner, put_back)
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
            "only_at_the_target": [each.called for each in found],
            "put_back": sum(each.was_put_back for each in found if isinstance(each, StrandedEvent)),
        },
        operator,
    )  # fmt: skip
    return found


async def _reconcile(
    connections: DriverConnections, migration: Migration, owner: UUID, put_back: bool
) -> Sequence[StrandedEvent | StrandedRow]:
    if connections.target.layout is None:
        return await reconcile(connections, migration, owner, put_back=put_back)
    rows = await reconciliation.reconcile(connections, migration, owner)
    return [StrandedRow.of(row, migration.tenant_id, migration.target_store_id) for row in rows]


async def _renew(
    lease: Lease, migrations: PostgreSQLMigrationRepository, migration: Migration
) -> None:
    while True:
        await asyncio.sleep(migration.config.lease_seconds / 3)
        await lease.renew(migrations)
