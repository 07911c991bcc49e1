"""Finishing a flip whose driver does not: any process that has both stores may."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import asyncpg

from eventsource.migration.errors import RepairNeededError, StoreMismatchError
from eventsource.migration.event_table import of_store
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.steps import decision
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.interface import EventStore


async def finish(
    routes: PostgreSQLRoutingRepository, stores: Mapping[str, EventStore], tenant_id: TenantId
) -> None:
    """Open the target of a decided move.

    A process whose roles may not do it, that does not know the stores, or whose version is older
    than the migration's, waits for a driver instead.
    """
    row = await routes.get_routing(tenant_id)
    if row is None or row.migration_id is None:
        return
    migrations = PostgreSQLMigrationRepository(routes.pool)
    migration = await migrations.get(row.migration_id)
    if migration.is_newer:
        return
    source = stores.get(migration.source_store_id)
    target = stores.get(migration.target_store_id)
    if isinstance(source, PostgreSQLEventStore) and isinstance(target, PostgreSQLEventStore):
        with contextlib.suppress(
            asyncpg.InsufficientPrivilegeError, RepairNeededError, StoreMismatchError
        ):
            await decision.roll_forward(
                migrations, migration, await of_store(source), await of_store(target)
            )
