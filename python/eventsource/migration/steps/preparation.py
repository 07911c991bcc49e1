"""From `pending` to the first snapshot: fences, triggers, and the reserved block of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from eventsource import failpoints
from eventsource.catalog import forms
from eventsource.migration import event_table
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.steps import fitness
from eventsource.migration.steps.passes import Prepared
from eventsource.migration.tables import (
    deferred_indexes,
    fences,
    guard,
    integrity,
    progress,
    reserved_block,
    snapshots,
    witnesses,
)
from eventsource.tenant_ids import TenantId, as_uuid

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.catalog.model import TableCatalog
    from eventsource.catalog.two_sides import Comparison
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence
    from eventsource.migration.tables.progress import CopyProgress
    from eventsource.migration.tables.snapshots import Snapshot


async def prepare(
    connections: DriverConnections, migration: Migration, owner: UUID, carry_on: Callable[[], bool],
    *, decided_head: int | None = None,
) -> Prepared:  # fmt: skip
    """Close the target, then guard the source; every step may be repeated.

    The source's fence row is committed before its triggers exist, and the triggers before the
    first snapshot is taken: no writer meets a trigger without a row, and no row of the tenant is
    written unguarded after S(0).

    Args:
        decided_head: where the source ended, of a tenant that was decided on: it draws no more.
    """
    source, target = connections.source, connections.target
    origin = await snapshots.take(source.connection)
    sequence: str | None = None
    if decided_head is None:
        sequence = await event_table.position_sequence(source)
        head = await event_table.head(source.connection, sequence)
    else:
        head = decided_head
    closed = await fences.raise_fence(
        target, tenant_id=migration.tenant_id, migration_id=migration.id,
        store_id=migration.target_store_id, role="target", generation=migration.generation,
        budget_seconds=migration.config.cutover_timeout_seconds, peer=migration.source_identity,
    )  # fmt: skip
    await failpoints.reach("guard.target.row.committed")

    there = await _guard_target(
        connections, closed, migration, owner, carry_on, origin, head, is_decided=sequence is None
    )
    await failpoints.reach("guard.target.triggers.committed")
    await witnesses.stand_at_target(target, migration.id)
    opened = await _raise_at_source(connections, migration)
    if sequence is not None:
        await _bind(connections, migration, sequence)
    # What is done about indexes since refuses nothing.
    compared, shape = await _guard_source(source, opened, migration, carry_on, there)
    await reserved_block.advance(target, compared.drawn)
    at = await progress.agree(target, migration.id, compared.carried, shape)
    is_first = at is not None and at.owner == owner
    if not is_first:
        at = await progress.claim(target, migration.id, owner)
    assert at is not None
    await failpoints.reach("guard.progress.committed")
    await connections.migrations.record_offset(migration.id, owner, at.position_offset)
    carried = map(compared.source.column, compared.carried)
    return Prepared(at, forms.of_columns(carried), is_first)


async def _guard_target(
    connections: DriverConnections,
    closed: Fence,
    migration: Migration,
    owner: UUID,
    carry_on: Callable[[], bool],
    origin: Snapshot,
    head: int,
    *,
    is_decided: bool,
) -> TableCatalog:
    """Guard it, and reserve the tenant's positions under its lock; the table as it was then."""
    source, target = connections.source, connections.target
    deferring = await _has_many(connections, migration) and not await reserved_block.is_in_use(
        target, migration.id
    )
    # Before an index is dropped; otherwise what the source is under its own lock is soon enough.
    here = await event_table.catalog_of(source, "source") if deferring else None
    under_its_lock: list[TableCatalog] = []

    async def reserve() -> None:
        # Under the table's lock: what was refused at the start may have come since.
        under_its_lock.append(await event_table.catalog_of(target, "target"))
        if here is not None:
            block = await progress.read(target, migration.id) is None
            fitness.refuse(here, under_its_lock[-1], migration.config.fires, block=block)
        empty = await reserved_block.reserve(
            target, migration, owner, head, origin, is_decided=is_decided
        )
        if empty and deferring:
            await deferred_indexes.defer(target, migration.id, closed)
        await failpoints.reach("guard.target.reserved")

    await guard.install(
        target, closed, migration.tenant_id, carry_on, then=reserve, drops=deferring
    )
    return under_its_lock[-1]


async def _guard_source(
    source: OwnTable,
    opened: Fence,
    migration: Migration,
    carry_on: Callable[[], bool],
    there: TableCatalog,
) -> tuple[Comparison, str]:
    """Guard it; both tables compared, and the shape of this one, under its lock."""
    agreed: list[tuple[Comparison, str]] = []

    async def created() -> None:
        here = await event_table.catalog_of(source, "source")
        compared = fitness.refuse(here, there, migration.config.fires, block=False)
        agreed.append((compared, await integrity.shape(source)))
        await failpoints.reach("guard.source.created")

    await guard.install(source, opened, migration.tenant_id, carry_on, then=created)
    await failpoints.reach("guard.source.triggers.committed")
    return agreed[-1]


async def _raise_at_source(connections: DriverConnections, migration: Migration) -> Fence:
    source = connections.source
    opened = await fences.raise_fence(
        source, tenant_id=migration.tenant_id, migration_id=migration.id,
        store_id=migration.source_store_id, role="source", generation=migration.generation,
        budget_seconds=migration.config.cutover_timeout_seconds, peer=migration.target_identity,
    )  # fmt: skip
    await failpoints.reach("guard.source.row.committed")
    return opened


async def _bind(connections: DriverConnections, migration: Migration, sequence: str) -> None:
    """From here on no tenant that arrives at the source takes positions that this one needs."""
    source = connections.source
    at = await progress.read_again(connections.target, migration.id)
    table = source.address.table
    await reserved_block.bind(
        source, migration.id, {table: at.last_target_position - at.position_offset},
        {table: sequence}, {table: reserved_block.HEADROOM},
    )  # fmt: skip
    await failpoints.reach("guard.source.bound.committed")


async def count_tenant(
    source: OwnTable, tenant_id: TenantId, at: CopyProgress, most: int | None
) -> int | None:
    """How many rows of the tenant the open pass's snapshot shows; None for more than ``most``."""
    count = await source.connection.fetchval(
        f"select count(*) from (select from {source.name} where tenant_id = $1"
        " and (transaction_id is null"
        " or pg_visible_in_snapshot(transaction_id, $2::text::pg_snapshot)) limit $3) found",
        as_uuid(tenant_id), at.snapshot, None if most is None else most + 1,
        timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip
    return int(count) if most is None or count <= most else None


async def _has_many(connections: DriverConnections, migration: Migration) -> bool:
    """Whether the tenant is large enough for deferred indexes to pay."""
    count = await connections.source.connection.fetchval(
        f"select count(*) from (select from {connections.source.name}"
        " where tenant_id = $1 limit $2) as sampled",
        as_uuid(migration.tenant_id), deferred_indexes.WORTH_IT,
    )  # fmt: skip
    return bool(count >= deferred_indexes.WORTH_IT)
