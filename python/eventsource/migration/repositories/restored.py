"""The control tables as a repair writes them: by what the fences say, past the usual order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.connections import transaction
from eventsource.migration.errors import MigrationAlreadyExistsError
from eventsource.migration.models import MigrationConfig, StoreIdentity
from eventsource.migration.protocol import FIRST, SPOKEN
from eventsource.migration.repositories import control_place
from eventsource.migration.states import MigrationState
from eventsource.named_sql import statements
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "migrations.sql")
_ROUTES = statements("eventsource.migration.repositories.sql", "routing.sql")
_WAYS = statements("eventsource.migration.repositories.sql", "ways_back.sql")


@dataclass(frozen=True, slots=True)
class RestoredMigration:
    """What is known of a migration without its row in the journal.

    ``paused_from`` is where one that is not over goes on; ``position_offset`` and
    ``fence_position`` are None when nobody knows them. ``returns`` is the move that it takes back,
    ``events`` how many it has carried to its end; None while it has not, or nobody knows. One that
    ``is_missing`` has no row: should it have got one meanwhile, that is newer.
    """

    id: UUID
    tenant_id: TenantId
    source_store_id: str
    target_store_id: str
    state: MigrationState
    paused_from: MigrationState | None
    generation: int
    position_offset: int | None
    fence_position: int | None
    source_identity: StoreIdentity | None
    target_identity: StoreIdentity | None
    returns: UUID | None = None
    events: int | None = None
    is_missing: bool = False


async def write_migration(
    control: Executor, row: RestoredMigration, config: MigrationConfig, operator: str | None
) -> None:
    """Write the row, over an older one; one that is under way takes the tenant's route.

    Args:
        config: of one that was lost; nobody knows any more what it had. Its mapping is rows.

    Raises:
        MigrationAlreadyExistsError: the tenant has another active one in the journal.
    """
    place = await control_place.as_json(control)
    try:
        async with transaction(control) as connection:
            restored = await connection.fetch(
                _SQL["restore"], row.id, stored(row.tenant_id), row.source_store_id,
                row.target_store_id, row.state.value,
                row.paused_from.value if row.paused_from else None,
                replace(config, position_mapping="rows").to_json(), row.generation,
                row.position_offset, row.fence_position,
                row.source_identity.to_json() if row.source_identity else None,
                row.target_identity.to_json() if row.target_identity else None, operator,
                row.returns, FIRST, place, SPOKEN, row.events, row.is_missing,
            )  # fmt: skip
            # What stays as it is, because it is newer, keeps its route, too.
            if restored and row.state is not MigrationState.FAILED:
                await connection.execute(
                    _ROUTES["begin"], stored(row.tenant_id), row.source_store_id,
                    row.target_store_id, row.generation, row.id,
                )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise MigrationAlreadyExistsError(row.tenant_id) from None


async def write_way_back(
    control: Executor,
    way_id: UUID,
    move: UUID,
    tenant_id: TenantId,
    generation: int,
    state: str,
    reason: str | None,
    keep_seconds: float,
    operator: str | None,
) -> None:
    """Write the row of a way back, over an older one; it is kept as long as its move says.

    Args:
        keep_seconds: for how long, where that says nothing; 0 is the default.
    """
    await control.execute(
        _WAYS["restore"], way_id, move, stored(tenant_id), generation, state, reason,
        keep_seconds or MigrationConfig().keep_way_back, operator, SPOKEN,
    )  # fmt: skip


async def write_route(
    control: Executor,
    tenant_id: TenantId,
    store_id: str,
    generation: int,
    migration_id: UUID | None,
) -> None:
    """Write where a tenant lives; a route of this generation or a newer one stays."""
    await control.execute(_ROUTES["restore"], stored(tenant_id), store_id, generation, migration_id)


async def request_abort_again(
    control: Executor, migration_id: UUID, reason: str, operator: str | None
) -> bool:
    """Ask for the abort of a migration that is over; False while a driver has it in hand."""
    return bool(await control.fetch(_SQL["abort_again"], migration_id, reason, operator))


async def record_place(
    control: Executor,
    migration_id: UUID,
    side: str,
    place: StoreIdentity,
    operator: str | None,
    config: str = "{}",
) -> None:
    """Record that a store of the migration is another place; ``config`` (JSON) is merged."""
    await control.execute(_SQL["rebind"], migration_id, side, place.to_json(), config, operator)
