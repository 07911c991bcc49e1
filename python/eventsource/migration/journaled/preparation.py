"""From `pending` to the first snapshot: fences, guards and numbers, for the tables of a layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource import failpoints
from eventsource.migration.connections import blockers
from eventsource.migration.journaled import (
    carriage,
    changes,
    loading,
    partitions,
    preflight,
    shapes,
    watching,
    whole,
)
from eventsource.migration.journaled import numbers as numbers_of
from eventsource.migration.journaled.carriage import Carriage
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.journaled.shapes import Shape
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.protocol import LOADED
from eventsource.migration.tables import (
    brief_locks,
    deferred_indexes,
    fences,
    progress,
    reserved_block,
    snapshots,
)
from eventsource.tenant_ids import stored

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.journaled.underway import Underway
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence


async def prepare(
    connections: DriverConnections, migration: Migration, owner: UUID, carry_on: Callable[[], bool],
    *, decided_head: int | None = None,
) -> None:  # fmt: skip
    """Close the target, reserve numbers there, then guard the source; may be repeated.

    The source's fence row is committed before its triggers exist, and all triggers exist before
    the first row is read.

    Args:
        decided_head: as in :func:`eventsource.migration.steps.preparation.prepare`.
    """
    source, target = connections.source, connections.target
    assert source.layout is not None
    budget = migration.config.cutover_timeout_seconds
    origin = await snapshots.take(source.connection)
    shape = await shape_of(source, target, source.layout, migration.tenant_id)
    preflight.refuse(shape, migration.config.fires)

    closed = await fences.raise_fence(
        target, tenant_id=migration.tenant_id, migration_id=migration.id,
        store_id=migration.target_store_id, role="target", generation=migration.generation,
        budget_seconds=budget, peer=migration.source_identity,
    )  # fmt: skip
    await failpoints.reach("guard.target.row.committed")
    arriving = Guarded(target, source.layout)

    async def close(table: LayoutTable) -> None:
        # The tenant may be back, and is no longer one that has left.
        await arriving.renew(table)
        await arriving.close(table, closed, stored(migration.tenant_id))

    await arriving.each(close, closed, carry_on)
    await failpoints.reach("guard.target.triggers.committed")
    await _reserve(
        connections, migration, owner, shape, origin.system, closed, carry_on, decided_head
    )

    opened = await fences.raise_fence(
        source, tenant_id=migration.tenant_id, migration_id=migration.id,
        store_id=migration.source_store_id, role="source", generation=migration.generation,
        budget_seconds=budget, peer=migration.target_identity,
    )  # fmt: skip
    await changes.limit(source, opened.fence_id, migration.config.journal_max_bytes)
    await failpoints.reach("guard.source.row.committed")
    if decided_head is None:
        await _bind(connections, migration, shape)
    leaving = Guarded(source, source.layout)
    await leaving.each(leaving.renew, opened, carry_on)
    await failpoints.reach("guard.source.triggers.committed")
    at = await progress.claim(target, migration.id, owner)
    assert at is not None
    await failpoints.reach("guard.progress.committed")
    await connections.migrations.record_offset(migration.id, owner, at.position_offset)


async def mend(table: Guarded, fence: Fence, tenant: str, carry_on: Callable[[], bool]) -> None:
    """Make again what others have taken away since; looked at without a lock first.

    Raises:
        StoreSchemaError: a table is not there any more; it is waited for.
    """
    names = [table.name(each) for each in table.layout.tables]
    if missing := await partitions.missing(table.table.connection, names):
        raise shapes.not_there(table.layout, fence.role, missing)
    if fence.role == "source":
        if await watching.weak(table.table) or await partitions.uncovered(table.table):
            await table.each(table.renew, fence, carry_on)
    elif fence.state == "closed":
        lacking = await table.without_arrival(fence)
        loaded = await deferred_indexes.not_held_off(table.table, fence)
        if lacking or loaded:

            async def close(each: LayoutTable) -> None:
                if each.name in lacking:
                    await table.close(each, fence, tenant)
                if each.name in loaded:
                    await deferred_indexes.hold_others_off(table.table, fence, each.name)

            await table.each(close, fence, carry_on)


async def mend_source(passes: Underway) -> bool:
    """As :func:`mend` of the source, amid its passes; False when they were asked to stop."""
    source, migration = passes.connections.source, passes.migration
    fence = await fences.of_migration(source, migration.id, "source")
    assert fence is not None
    assert source.layout is not None
    try:
        await mend(
            Guarded(source, source.layout), fence, stored(migration.tenant_id),
            lambda: not passes.session.stopping,
        )  # fmt: skip
    except brief_locks.LockNeverGranted:
        return False
    return True


async def count_tenant(source: AnyTable, shape: Shape, most: int | None) -> int | None:
    """How many rows of the tenant there are now, in all tables; None for more than ``most``."""
    total = 0
    for table in shape.layout.tables:
        total += await shapes.count(
            source, shape, table, None if most is None else most - total + 1
        )
        if most is not None and total > most:
            return None
    return total


async def _reserve(
    connections: DriverConnections, migration: Migration, owner: UUID, shape: Shape, system: str,
    closed: Fence, carry_on: Callable[[], bool], decided_head: int | None,
) -> None:  # fmt: skip
    """Keep numbers free at the target for those of the source, and write the progress row.

    In one transaction, with the writers of the tables held off, so that "empty" is exact.
    """
    target = connections.target
    numbers = await numbers_of.given(connections.source, shape)
    if decided_head is not None and shape.layout.events in numbers:
        numbers[shape.layout.events] = decided_head
    at = await progress.read(target, migration.id)
    before = await carriage.read(target, migration.id)
    if at is not None and before is not None and not _is_used_up(at, before, numbers):
        return
    large = await loading.worth(connections, shape) if at is None else {}
    if large:
        # A driver of an earlier version would not build what is missing.
        await connections.migrations.require_protocol(migration.id, owner, LOADED)

    async def reserve() -> None:
        for table in shape.layout.tables:
            # To drop an index takes the strongest lock: see `Guarded.renew`.
            mode = "access exclusive" if table.name in large else "share row exclusive"
            name = shape.target.name(table.name)
            await target.connection.execute(f"lock table {name} in {mode} mode")
        await preflight.refuse_rows(target, shape)
        others = await reserved_block.departures(target, migration.id)
        agreed = await _agree(
            target, shape, numbers, others, before, is_decided=decided_head is not None
        )
        main = shape.layout.events
        await target.connection.execute(
            f"insert into {target.progress} (migration_id, tenant_id, table_name, owner,"
            " position_offset, last_target_position, source_system, carriage)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb)"
            " on conflict (migration_id) do update set position_offset = excluded.position_offset,"
            " last_target_position = excluded.last_target_position, carriage = excluded.carriage",
            migration.id, stored(migration.tenant_id), target.address.table, owner,
            agreed.offsets.get(main, 0), agreed.last.get(main, 0), system, agreed.to_json(),
        )  # fmt: skip
        if at is None:
            await loading.begin(target, migration.id, closed, large)
        await failpoints.reach("guard.target.reserved")

    await brief_locks.transact(
        target.connection, reserve, carry_on,
        what=f"for locks on the tables in store {migration.target_store_id!r}",
        look=lambda seconds: blockers.of_table(target.connection, target.name, seconds),
    )  # fmt: skip


def _is_used_up(at: progress.CopyProgress, agreed: Carriage, numbers: dict[str, int]) -> bool:
    """Whether other tenants have taken the numbers before anything was copied."""
    return at.is_untouched and any(
        reserved_block.is_used_up(agreed.bound(name), number, agreed.headroom_of(name))
        for name, number in numbers.items()
    )


async def _bind(connections: DriverConnections, migration: Migration, shape: Shape) -> None:
    """From here on no tenant that arrives at the source takes numbers that this one needs."""
    agreed = await carriage.read(connections.target, migration.id)
    assert agreed is not None
    sequences = await numbers_of.sequences(connections.source, shape)
    await reserved_block.bind(
        connections.source, migration.id,
        {name: agreed.bound(name) for name in sequences}, sequences,
        {name: agreed.headroom_of(name) for name in sequences},
    )  # fmt: skip
    await failpoints.reach("guard.source.bound.committed")


async def _agree(
    target: OwnTable, shape: Shape, numbers: dict[str, int],
    others: list[reserved_block.Departure], earlier: Carriage | None, *, is_decided: bool,
) -> Carriage:  # fmt: skip
    """Offset 0 where the target's table is unused; else numbers begin after all it has given.

    Raises:
        TargetBusyError: another tenant that leaves the tables needs the numbers first.
    """
    offsets: dict[str, int] = {}
    last: dict[str, int] = {}
    headroom: dict[str, int] = {}
    before: dict[str, int | None] = {}
    for table, numbering in numbers_of.owned(shape):
        sequence = await numbers_of.sequence_of(target, table, numbering, shape.tenant_id)
        is_held = await numbers_of.held(target.connection, sequence)
        sequence, given, offset = await numbers_of.taken(target, shape, table, numbering)
        offsets[table.name] = offset
        headroom[table.name] = await numbers_of.headroom(
            target, shape, table, numbering, sequence,
            given=numbers[table.name], used=offset + numbers[table.name],
        )  # fmt: skip
        last[table.name] = reserved_block.last_of(
            table.name, () if numbering.per_tenant else others, head=given or 0, offset=offset,
            numbers=numbers[table.name], headroom=headroom[table.name], is_decided=is_decided,
        )  # fmt: skip
        if is_held:
            # Otherwise another number may be given before they are kept: an abort leaves a gap.
            before[sequence] = given
        # Numbers of others begin after those that are kept; a rollback keeps the gap.
        await target.connection.fetchval(
            "select setval($1::text::regclass, $2)", sequence, last[table.name]
        )
    if shape.layout.is_whole:
        numbers_before = await whole.given("target", target)
        before = {target.beside(name): last_given for name, last_given in numbers_before.items()}
    if earlier is not None:
        before = dict(earlier.before)
    stamp = await target.connection.fetchval("select pg_current_xact_id()::text")
    return Carriage(shape.layout.name, offsets, last, str(stamp), before, headroom=headroom)
