"""Undo everything before the decision, and nothing after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource import failpoints
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.states import MigrationState
from eventsource.migration.steps import decision
from eventsource.migration.tables import deferred_indexes, fences, guard, progress, snapshots

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence

#: Rows deleted per transaction, so that no transaction of an abort lives long.
ROWS_AT_A_TIME = 20_000


#: How long an abort looks for a quiet moment of a table, to leave nothing of itself there.
TIDY_SECONDS = 0.5


async def carry_out(connections: DriverConnections, migration: Migration, owner: UUID) -> bool:
    """Remove what the migration put anywhere; False when the tenant has already moved.

    Every step may be repeated: an abort that dies is taken up by the next driver. The source's
    guard goes first, under the lock, so that from then on nothing can be decided.
    """
    target = connections.target
    if await decision.find(connections.fence, migration) is not None:
        await connections.migrations.withdraw_abort(migration.id)
        return False
    await failpoints.reach("abort.decided")
    if not await _remove_guard(connections, migration):
        await connections.migrations.withdraw_abort(migration.id)
        return False
    await failpoints.reach("abort.guard.committed")
    at = await progress.claim(target, migration.id, owner)
    await failpoints.reach("abort.claimed.committed")
    fence = await fences.read(target, migration.tenant_id)
    ours = fence is not None and fence.migration_id == migration.id and fence.state == "closed"
    closed = fence if ours else None
    if closed is not None:
        await fences.refuse_mirrors(target, closed)
        await failpoints.reach("abort.mirrors.committed")
        await _undo_load(connections, migration, closed)
    if at is not None:
        # The block was reserved when the target held nothing of the tenant: all of it is ours.
        await _delete_copied(connections, migration)
        await failpoints.reach("abort.rows.committed")
    # Only now: until its rows are gone the closed fence keeps them out of the target's feed.
    if closed is not None and closed.moved_to is not None:
        await guard.stay_moved(target, closed, migration)
    elif closed is not None:
        await guard.remove(target, closed)
    await failpoints.reach("abort.target.committed")
    await PostgreSQLPositionMappingRepository(connections.control).delete(migration.id)
    await failpoints.reach("abort.mapping.committed")
    await progress.remove(target, migration.id)
    await failpoints.reach("abort.progress.committed")
    await snapshots.remove_barrier(connections.source, migration.id)
    await failpoints.reach("abort.barrier.committed")
    # Nobody waits for a reader here: a trigger that is switched off may stay for now.
    for table in (connections.source, target):
        await guard.drop_idle(table, TIDY_SECONDS)
    await connections.migrations.transition(
        migration,
        MigrationState.ROLLED_BACK,
        owner=owner,
        details={"reason": migration.abort_requested},
        error=("aborted", migration.abort_requested or "aborted"),
    )
    await failpoints.reach("abort.state.committed")
    return True


async def _remove_guard(connections: DriverConnections, migration: Migration) -> bool:
    fence = await fences.read(connections.source, migration.tenant_id)
    if fence is None or fence.migration_id != migration.id:
        return True
    return await guard.remove(connections.fence, fence)


async def _undo_load(connections: DriverConnections, migration: Migration, closed: Fence) -> None:
    """Restore the indexes that a load was doing without, over no rows: that is quick."""
    target = connections.target
    if await deferred_indexes.deferred(target, migration.id) is not None:
        await _delete_copied(connections, migration)
        await deferred_indexes.build(target, (), migration, closed)


async def _delete_copied(connections: DriverConnections, migration: Migration) -> None:
    """Delete the tenant's rows at the target."""
    name = connections.target.name
    while True:
        tag = await connections.target.connection.execute(
            f"delete from {name} where global_position in (select global_position from {name}"
            " where tenant_id = $1 order by global_position limit $2)",
            migration.tenant_id, ROWS_AT_A_TIME, timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        if tag == "DELETE 0":
            return
