"""What a store itself says of a tenant that has left it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from eventsource.declared import uuid_of
from eventsource.migration.event_table import of_store
from eventsource.migration.failures import PASSING
from eventsource.migration.tables import fences
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.stores.postgresql import PostgreSQLEventStore

#: A reader gives up asking after this long, and reads where it believes the tenant to be (seconds).
ASK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the tenant went, by which migration, and the generation of its route since."""

    store_id: str
    generation: int
    migration_id: UUID


async def moved_to(store: PostgreSQLEventStore, tenant_id: TenantId) -> Departure | None:
    """Ask the tenant's fence; None while it lives there, and where the role may not ask."""
    with contextlib.suppress(*PASSING, asyncpg.PostgresError):
        async with asyncio.timeout(ASK_SECONDS):
            table = await of_store(store)
            row = await table.connection.fetchrow(
                f"select state, moved_to, generation, migration_id from {table.fences}"
                f" where table_name = $1 and tenant_id = $2 {fences.IN_FORCE}",
                table.address.table, stored(tenant_id),
            )  # fmt: skip
        if row is not None and row["state"] == "moved" and row["moved_to"] is not None:
            return Departure(row["moved_to"], row["generation"], uuid_of(row["migration_id"]))
    return None
