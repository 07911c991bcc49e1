"""A migration whose target is gone for good: it ends without it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from eventsource.errors import EventSourceError
from eventsource.migration.connections.driver_connections import close_all, open_table
from eventsource.migration.driver.lease import Lease
from eventsource.migration.errors import (
    InvalidStateTransitionError,
    MigrationError,
    StoreGoneBackError,
)
from eventsource.migration.event_table import of_store
from eventsource.migration.failures import PASSING
from eventsource.migration.journaled import undoing
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.states import MigrationState
from eventsource.migration.steps import abort, decision
from eventsource.migration.tables import fences, guard, witnesses

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore

#: How long a target is looked for before it counts as gone (seconds).
LOOKED_FOR_SECONDS = 10.0


async def abort_without_target(
    migrations: PostgreSQLMigrationRepository,
    migration: Migration,
    source: PostgreSQLEventStore,
    target: PostgreSQLEventStore | None,
    *,
    reason: str,
    operator: str | None,
) -> Migration:
    """Take the guard off the source and end the migration; nothing at its target is looked at.

    Raises:
        InvalidStateTransitionError: the tenant has moved, and its events are at the target.
        StoreGoneBackError: the source has lost what the target may have held.
        MigrationError: the target is there, or a driver is at work.
    """
    if migration.state in (MigrationState.MIGRATED, MigrationState.ROLLED_BACK):
        raise InvalidStateTransitionError(migration.id, migration.state, "be aborted")
    if target is not None and await _is_there(migration, target):
        raise MigrationError(
            f"store {migration.target_store_id!r} answers and has the fence of migration"
            f" {migration.id}: abort it with its target (`eventsource-migrate abort"
            f" {migration.id}`)"
        )
    lease = Lease(migration.id)
    if not await lease.acquire(migrations):
        raise MigrationError(
            f"driver {migration.driver_name} has migration {migration.id} in hand; nothing was"
            " changed: stop it and ask again"
        )
    table = await open_table(await source.address(), source.layout)
    try:
        # Nobody decides while the lock is held, and nobody can once the row is gone.
        if await decision.find(table, migration) is not None:
            raise InvalidStateTransitionError(
                migration.id, "decided: the tenant lives at its target,", "be aborted"
            )
        if await _may_lack_what_was_carried(table, migration):
            raise StoreGoneBackError(
                f"the source {table.address.table!r} came here in a dump, or has gone back: its"
                " target may have held events that it lacks. Nothing was changed"
            )
        remove = abort.remove_guard if table.layout is None else undoing.remove_guards
        if not await remove(table, migration):
            raise InvalidStateTransitionError(migration.id, "decided", "be aborted")
        await PostgreSQLPositionMappingRepository(migrations.pool).delete(migration.id)
        await witnesses.forget(table, migration.id)
        if table.layout is None:
            await guard.drop_idle(table)
    finally:
        await close_all([table.connection])
        await lease.try_to_release(migrations)
    await migrations.audit(migration.id, "aborted_without_target", {"reason": reason}, operator)
    return await migrations.transition(
        migration, MigrationState.ROLLED_BACK, details={"reason": reason}, operator=operator,
        error=("aborted", reason),
    )  # fmt: skip


async def _may_lack_what_was_carried(source: AnyTable, migration: Migration) -> bool:
    """Whether the source has gone back: a dump carries its barriers along, a state from before the
    first has none. Without a fence it knows nothing of the migration, and nothing is left to end.
    """
    stands = await witnesses.any_stands(source, migration.id)
    if stands is not None:
        return not stands
    carried = migration.events_copied > 0 or MigrationState.DUAL_WRITE in (
        migration.state,
        migration.paused_from,
    )
    return carried and await fences.of_migration(source, migration.id, "source") is not None


async def _is_there(migration: Migration, target: PostgreSQLEventStore) -> bool:
    try:
        async with asyncio.timeout(LOOKED_FOR_SECONDS):
            table = await of_store(target)
            return await fences.of_migration(table, migration.id, "target") is not None
    except (*PASSING, asyncpg.PostgresError, EventSourceError):
        return False


async def is_still_somewhere(
    migration: Migration, source: PostgreSQLEventStore, target: PostgreSQLEventStore
) -> bool:
    """Whether a store has the fence of a migration that was aborted: it has gone back since."""
    for store, side in ((source, "source"), (target, "target")):
        try:
            async with asyncio.timeout(LOOKED_FOR_SECONDS):
                table = await of_store(store)
                if await fences.of_migration(table, migration.id, side) is not None:
                    return True
        except (*PASSING, asyncpg.PostgresError, EventSourceError):
            continue
    return False
