"""Undo everything before the decision in a layout's tables, and leave nothing there."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource import failpoints
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import timeouts
from eventsource.migration.connections.transactions import transaction
from eventsource.migration.errors import StoreGoneBackError
from eventsource.migration.journaled import carriage, changes, numbers, rescue, watching
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.journaled.shapes import Shape, of_places
from eventsource.migration.steps import decision
from eventsource.migration.tables import (
    brief_locks,
    deferred_indexes,
    fences,
    lost_fence,
    progress,
    witnesses,
)

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.journaled.carriage import Carriage
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence
    from eventsource.migration.tables.progress import CopyProgress

#: Rows that are deleted in one transaction.
AT_A_TIME = 20_000


async def carry_out(connections: DriverConnections, migration: Migration, owner: UUID) -> bool:
    """Remove what the migration put anywhere; False when the tenant has already moved.

    The target comes first: one that is being aborted is opened by nobody. Then the source's fence
    says that nothing is decided any more, under the lock, and lets everybody pass; only then do
    the guards go, one table after the other. What only the target has, because the source has lost
    it, is kept.

    Raises:
        StoreGoneBackError: a decision was made; nothing was changed.
    """
    source, target = connections.source, connections.target
    if await decision.find(connections.fence, migration) is not None:
        return await _come_too_late(connections, migration)
    await failpoints.reach("abort.decided")
    at = await progress.claim(target, migration.id, owner)
    await failpoints.reach("abort.claimed.committed")
    gone_back = at is not None and await _has_gone_back(source, at)
    agreed = await carriage.read(target, migration.id)
    closed = await fences.begin_abort(target, migration.tenant_id, migration.id)
    await failpoints.reach("abort.begun.committed")
    if closed is None and at is not None and not at.is_spoiled:
        closed = await _fence_again(connections, migration, gone_back=gone_back)
    if not await remove_guards(connections.fence, migration):
        return await _come_too_late(connections, migration)
    await failpoints.reach("abort.guard.committed")
    if closed is not None:
        if gone_back and agreed is not None:
            await _keep_lost(connections, migration, agreed)
        await progress.spoil(target, migration.id)
        await _delete_rows(connections, migration, closed)
        # Over no rows: that is quick.
        await deferred_indexes.build(target, (), migration, closed)
        await failpoints.reach("abort.rows.committed")
        await _open_again(target, closed)
        if agreed is not None:
            await _give_numbers_back(target, agreed)
    await failpoints.reach("abort.target.committed")
    await progress.remove(target, migration.id)
    await failpoints.reach("abort.progress.committed")
    await witnesses.forget(source, migration.id)
    await failpoints.reach("abort.barrier.committed")
    await connections.migrations.record_abort(migration, owner)
    await failpoints.reach("abort.state.committed")
    return True


async def _has_gone_back(source: AnyTable, at: CopyProgress) -> bool:
    """Whether the source may lack what the target holds."""
    try:
        await witnesses.stand_again(source, at.migration_id, at.witness, at.source_system)
    except StoreGoneBackError:
        return True
    return False


async def _fence_again(
    connections: DriverConnections, migration: Migration, *, gone_back: bool
) -> Fence | None:
    """Of a target whose fence was removed by hand: its triggers and rows would stay without one.

    Raises:
        StoreGoneBackError: the tenant may live there.
    """
    source, target = connections.source, connections.target
    assert target.layout is not None
    names = [target.beside(each.name) for each in target.layout.tables]
    if gone_back or not await lost_fence.make_again(source, target, migration, names):
        raise StoreGoneBackError(
            f"the target has rows of tenant {migration.tenant_id} that migration {migration.id} has"
            " carried, and no fence of it: they may be a later migration's; nothing was changed."
            " A database was restored or failed over to a moment before, or the fences were removed"
            " by hand at both sides: compare both sides (`eventsource-migrate verify`)"
        )
    return await fences.begin_abort(target, migration.tenant_id, migration.id)


async def _keep_lost(
    connections: DriverConnections, migration: Migration, agreed: Carriage
) -> None:
    lost = await rescue.keep_lost(connections.source, connections.target, migration, agreed)
    await failpoints.reach("abort.rescued.committed")
    if lost:
        await connections.migrations.audit(
            migration.id, "rows_rescued",
            {"rows": len(lost), "table": rescue.RESCUED, "only_at_the_target": [*map(str, lost)]},
        )  # fmt: skip


async def _come_too_late(connections: DriverConnections, migration: Migration) -> bool:
    await fences.end_abort(connections.target, migration)
    await connections.migrations.withdraw_abort(migration.id)
    return False


async def remove_guards(table: OwnTable, migration: Migration) -> bool:
    """Take them off a source, and its fence; False when the tenant has moved."""
    fence = await fences.of_migration(table, migration.id, "source")
    if fence is None:
        await _take_off_what_is_left(table, migration)
        return True
    if not await _end_deciding(table, fence):
        return False
    await failpoints.reach("layout.abort.committed")
    assert table.layout is not None
    guarded = await Guarded(table, table.layout).found(fence)
    await guarded.each(guarded.renew, fence, readers=True)
    await failpoints.reach("abort.guard.dropped")
    await changes.forget(table, fence.fence_id)
    await table.connection.execute(
        f"delete from {table.fences} where fence_id = $1 and migration_id = $2"
        " and state = 'aborting'",
        fence.fence_id, fence.migration_id,
    )  # fmt: skip
    return True


async def _take_off_what_is_left(table: OwnTable, migration: Migration) -> None:
    """Its row was removed by hand: its guard would go on to refuse all that the tenant writes."""
    assert table.layout is not None
    guarded = await Guarded(table, table.layout).found(None)
    if not await guarded.is_left_over():
        return
    for each in table.layout.tables:

        async def renew(each: LayoutTable = each) -> None:
            await guarded.renew(each)

        await brief_locks.transact(
            table.connection, renew,
            what=f"for a lock on {guarded.name(each)} in store {migration.source_store_id!r}",
        )  # fmt: skip
    await table.connection.execute(
        f"delete from {table.beside('eventsource_changes')} c where c.fence_id <> {watching.MADE}"
        f" and not exists (select from {table.fences} f where f.fence_id = abs(c.fence_id))"
    )


async def _end_deciding(table: OwnTable, fence: Fence) -> bool:
    """Under the lock: from now on the guard lets everybody pass and nobody decides."""
    changed = False

    async def end() -> None:
        nonlocal changed
        await fences.lock_exclusively(table.connection, fence)
        state = await table.connection.fetchval(
            f"update {table.fences} set state = 'aborting', updated_at = now()"
            " where fence_id = $1 and migration_id = $2 and role = 'source'"
            " and state in ('open', 'aborting') returning state",
            fence.fence_id, fence.migration_id,
        )  # fmt: skip
        changed = state is not None

    await brief_locks.transact(table.connection, end, what="for the tenant's fence")
    return changed


async def _delete_rows(connections: DriverConnections, migration: Migration, closed: Fence) -> None:
    """Portion by portion, children first, each with a look at the fence.

    Raises:
        StoreSchemaError: nothing says any more whose the rows of a table are.
    """
    target = connections.target
    assert target.layout is not None
    guarded = await Guarded(target, target.layout).found(closed)
    places = {each.name: guarded.places_of(each) for each in target.layout.tables}
    there = {name: found[0] for name, found in places.items() if found}
    for table in reversed(target.layout.tables):
        # A table that somebody has put in the place of another does not have all of them.
        for place in places[table.name]:
            # As the target has them: the source may have dropped a table, or changed it.
            shape = await of_places(
                target, target.layout, migration.tenant_id, {**there, table.name: place}
            )
            if lacking := shape.lacks(table):
                raise StoreSchemaError(
                    f"rows of {place} at the target are deleted, and it lacks"
                    f" {', '.join(lacking)}, which says whose they are: give it that name back,"
                    " and the abort goes on by itself"
                )
            await _delete(connections, migration, table, shape)


async def _delete(
    connections: DriverConnections, migration: Migration, table: LayoutTable, shape: Shape
) -> None:
    source, target = connections.source, connections.target
    key = ", ".join(map(quote_identifier, table.key))
    while True:
        # Its session is gone if the source went back meanwhile.
        await source.connection.fetchval("select 1")
        try:
            tag = await target.connection.execute(
                f"delete from {shape.target.name(table.name)} where ({key}) in (select {key} from"
                f" {shape.rows(table, shape.target)} mine limit {AT_A_TIME})"
                f" and exists (select from {target.fences} where migration_id = $1"
                " and role = 'target' and state = 'aborting')",
                migration.id, timeout=timeouts.LONG_STATEMENT_SECONDS,
            )  # fmt: skip
        except asyncpg.ForeignKeyViolationError as error:
            raise StoreSchemaError(
                f"rows of {shape.target.name(table.name)} at the target are deleted, and those of"
                f" another table refer to them: {error.detail or error} Delete these or let them"
                " refer to nothing, and the abort goes on by itself"
            ) from error
        if tag == "DELETE 0":
            break


async def _open_again(target: OwnTable, closed: Fence) -> None:
    assert target.layout is not None
    guarded = await Guarded(target, target.layout).found(closed)

    async def drop(table: LayoutTable) -> None:
        await guarded.drop_arrival(table, closed)

    await guarded.each(drop, closed, readers=True)
    await target.connection.execute(
        f"delete from {target.fences} where fence_id = $1 and migration_id = $2",
        closed.fence_id, closed.migration_id,
    )  # fmt: skip
    # If the tenant once left from here, who heard of nothing since is sent on as before.
    await guarded.each(guarded.renew, closed, readers=True)


async def _give_numbers_back(target: OwnTable, agreed: Carriage) -> None:
    """Set a sequence back that nobody has drawn from since its numbers were kept free.

    From those of a tenant that owns its tables nobody could draw: they were closed to all. Where
    draws cannot be held off the numbers stay kept: a gap, and no number is given twice.
    """
    assert target.layout is not None
    connection, kept = target.connection, list(agreed.last.values())
    for sequence, before in agreed.before.items():
        async with transaction(connection):
            if await numbers.held(connection, sequence):
                await connection.execute(
                    "select setval(seqrelid, coalesce($2, seqstart), $2::bigint is not null)"
                    " from pg_sequence where seqrelid = $1::text::regclass"
                    " and ($4 or pg_sequence_last_value(seqrelid) = any ($3::bigint[]))",
                    sequence, before, kept, target.layout.is_whole,
                )  # fmt: skip
