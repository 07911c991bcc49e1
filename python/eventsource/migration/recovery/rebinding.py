"""`rebind`: a store of a migration has become another place, and somebody says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from eventsource.migration.errors import (
    InvalidStateTransitionError,
    RoutingError,
    StoreMismatchError,
)
from eventsource.migration.event_table import of_store
from eventsource.migration.models import VerificationLevel
from eventsource.migration.repositories import restored
from eventsource.migration.states import MigrationState
from eventsource.migration.tables import fences, identities, progress, reconciled, witnesses

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore


async def rebind(
    migrations: PostgreSQLMigrationRepository,
    migration: Migration,
    stores: tuple[PostgreSQLEventStore, PostgreSQLEventStore],
    store_id: str,
    operator: str | None,
) -> bool:
    """Record the place that ``store_id`` is now; whether the source has to be reconciled.

    Raises:
        InvalidStateTransitionError: the migration is neither paused nor finished.
        RoutingError: it has no such store.
        StoreMismatchError: the place knows nothing of this migration.
    """
    over = migration.state is MigrationState.MIGRATED
    if migration.state is not MigrationState.PAUSED and not over:
        raise InvalidStateTransitionError(
            migration.id, migration.state, "be bound to another place: pause it first"
        )
    if store_id not in (migration.source_store_id, migration.target_store_id):
        raise RoutingError(
            f"migration {migration.id} goes from {migration.source_store_id!r} to"
            f" {migration.target_store_id!r}; {store_id!r} is neither"
        )
    source, target = [await of_store(each) for each in stores]
    side = "source" if store_id == migration.source_store_id else "target"
    recorded = migration.source_identity if side == "source" else migration.target_identity
    table = source if side == "source" else target
    here = await identities.of(table)
    if here is None:
        raise StoreMismatchError(f"store {store_id!r} has no table {table.name} here")
    if here == recorded:
        return False
    await _refuse_stranger(migration, source, target, side)
    if over and side == "target":
        await witnesses.stand_at_target(target, migration.id, again=True)
    if over or side == "source":
        await restored.record_place(migrations.pool, migration.id, side, here, operator)
        return not over
    # It was proven in the other place: all of it is compared before the tenant moves.
    await reconciled.unseal(target, migration.id)
    await witnesses.stand_at_target(target, migration.id, again=True)
    config = json.dumps({"verification_level": VerificationLevel.FULL.value})
    await restored.record_place(migrations.pool, migration.id, side, here, operator, config)
    return False


async def _refuse_stranger(
    migration: Migration, source: AnyTable, target: AnyTable, side: str
) -> None:
    """The place holds what this migration has left in the one before."""
    table = source if side == "source" else target
    fence = await fences.of_migration(table, migration.id, side)
    if migration.state is MigrationState.MIGRATED:
        wanted = "moved" if side == "source" else "open"
        if fence is not None and fence.state == wanted:
            return
        raise StoreMismatchError(
            f"the {side} {table.name} does not say here that migration {migration.id} has moved its"
            " tenant: it is no later state of the place that it was. Nothing was changed:"
            " `eventsource-migrate repair` says what the stores know"
        )
    at = await progress.read(target, migration.id)
    known = fence is not None and at is not None
    if known and side == "source":
        assert at is not None
        known = at.witness is not None and await witnesses.has(source, migration.id, at.witness)
    if not known:
        raise StoreMismatchError(
            f"the {side} {table.name} holds nothing of migration {migration.id} here: it is no"
            " later state of the place where it began. Nothing was changed. If that place is gone"
            f" for good, `eventsource-migrate abort {migration.id}"
            + (" --without-target`" if side == "target" else "` once the source is there again")
        )
