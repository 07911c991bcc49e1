"""A comparison of two stores of a layout over connections of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.connections.driver_connections import close_all, open_table
from eventsource.migration.journaled import comparison

if TYPE_CHECKING:
    from eventsource.migration.models import VerificationLevel, VerificationReport
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.tenant_ids import TenantId


async def verify(
    source: PostgreSQLEventStore,
    target: PostgreSQLEventStore,
    tenant_id: TenantId,
    level: VerificationLevel,
) -> VerificationReport:
    """Compare a tenant's rows in all tables of the layout; both stores may be in use."""
    opened = []
    try:
        for store in (source, target):
            opened.append(await open_table(await store.address(), store.layout))
        return await comparison.compare(opened[0], opened[1], tenant_id, level)
    finally:
        await close_all([each.connection for each in opened])
