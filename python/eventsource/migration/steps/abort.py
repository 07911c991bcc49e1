"""Undo everything before the decision, and nothing after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource import failpoints
from eventsource.migration.errors import StoreGoneBackError
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.steps import decision, rescue, way_back
from eventsource.migration.tables import (
    deferred_indexes,
    fences,
    guard,
    lost_fence,
    progress,
    snapshots,
    witnesses,
)

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence
    from eventsource.migration.tables.progress import CopyProgress


#: How long an abort looks for a quiet moment of a table, to leave nothing of itself there.
TIDY_SECONDS = 0.5


async def carry_out(connections: DriverConnections, migration: Migration, owner: UUID) -> bool:
    """Remove what the migration put anywhere; False when the tenant has already moved.

    Every step may be repeated: an abort that dies is taken up by the next driver. The target comes
    first: an open one is a witness of a decision that the source has forgotten, and one that is
    being aborted is opened by nobody. Then the source's guard goes, under the lock, so that from
    then on nothing can be decided; and only then is anything deleted. What only the target has,
    because the source has lost it, is kept.

    Raises:
        StoreGoneBackError: a decision was made; nothing was changed.
    """
    target = connections.target
    if await decision.find(connections.fence, migration) is not None:
        return await _come_too_late(connections, migration)
    await failpoints.reach("abort.decided")
    gone_back = False
    at = await progress.claim(target, migration.id, owner)
    await failpoints.reach("abort.claimed.committed")
    if at is not None:
        gone_back = await _has_gone_back(connections.source, at)
    closed = await fences.begin_abort(target, migration.tenant_id, migration.id)
    await failpoints.reach("abort.begun.committed")
    if closed is None and at is not None and await progress.holds_copied(target, at):
        closed = await _fence_again(connections, migration, at, gone_back=gone_back)
    if not await remove_guard(connections.fence, migration):
        return await _come_too_late(connections, migration)
    await failpoints.reach("abort.guard.committed")
    await way_back.forget(connections, migration)
    if closed is not None:
        if at is not None and gone_back:
            await _keep_lost(connections, at)
        await progress.spoil(target, migration.id)
        await _undo_load(connections, migration, closed)
        await progress.delete_copied(connections.source, target, migration)
        await failpoints.reach("abort.rows.committed")
        # Only now: until its rows are gone the closed fence keeps them out of the target's feed.
        await guard.remove(target, closed)
    await failpoints.reach("abort.target.committed")
    await PostgreSQLPositionMappingRepository(connections.control).delete(migration.id)
    await failpoints.reach("abort.mapping.committed")
    await progress.remove(target, migration.id)
    await failpoints.reach("abort.progress.committed")
    await witnesses.forget(connections.source, migration.id)
    await failpoints.reach("abort.barrier.committed")
    # Nobody waits for a reader here: a trigger that is switched off may stay for now.
    for table in (connections.source, target):
        await guard.drop_idle(table, TIDY_SECONDS)
    await connections.migrations.record_abort(migration, owner)
    await failpoints.reach("abort.state.committed")
    return True


async def _has_gone_back(source: AnyTable, at: CopyProgress) -> bool:
    """Whether the source may lack what the target holds."""
    try:
        await witnesses.stand_again(source, at.migration_id, at.witness, at.source_system)
    except StoreGoneBackError:
        return True
    now = await snapshots.source_of(source.connection)
    return at.source_started not in (None, now.started)


async def _keep_lost(connections: DriverConnections, at: CopyProgress) -> None:
    kept = await rescue.keep_lost(connections.source, connections.target, at)
    await failpoints.reach("abort.rescued.committed")
    if kept:
        await connections.migrations.audit(
            at.migration_id, "events_rescued", {"events": kept, "table": rescue.RESCUED}
        )


async def _come_too_late(connections: DriverConnections, migration: Migration) -> bool:
    await fences.end_abort(connections.target, migration)
    await connections.migrations.withdraw_abort(migration.id)
    return False


async def _fence_again(
    connections: DriverConnections, migration: Migration, at: CopyProgress, *, gone_back: bool
) -> Fence | None:
    """Of a target whose fence was removed by hand, and holds what was carried.

    An abort that died after it had removed the fence has left a progress row and no rows.

    Raises:
        StoreGoneBackError: the rows may be those of a later migration.
    """
    source, target = connections.source, connections.target
    if gone_back or not await lost_fence.make_again(source, target, migration, [target.name]):
        raise StoreGoneBackError(
            f"the target {target.address.table!r} holds events in the block of migration"
            f" {at.migration_id} and no fence of it: they may be a later migration's; nothing was"
            " changed. The source's or the control database was restored or failed over to a"
            " moment before the tenant moved: keep the tenant's writers away from the source, and"
            " compare both sides (`eventsource-migrate verify`)"
        )
    return await fences.begin_abort(connections.target, migration.tenant_id, migration.id)


async def remove_guard(table: OwnTable, migration: Migration) -> bool:
    """Take it off a source, and its fence; False when the tenant has moved."""
    fence = await fences.of_migration(table, migration.id, "source")
    return fence is None or await guard.remove(table, fence)


async def _undo_load(connections: DriverConnections, migration: Migration, closed: Fence) -> None:
    """Restore the indexes that a load was doing without, over no rows: that is quick."""
    target = connections.target
    if await deferred_indexes.deferred(target, migration.id) is not None:
        await progress.delete_copied(connections.source, target, migration)
        await deferred_indexes.build(target, (), migration, closed)
