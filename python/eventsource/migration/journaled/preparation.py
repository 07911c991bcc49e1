"""From `pending` to the first snapshot: fences, guards and numbers, for the tables of a layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource import failpoints
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import blockers
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.errors import PreflightError
from eventsource.migration.journaled import preflight, watching, whole
from eventsource.migration.journaled.carriage import Carriage
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.journaled.shapes import Shape
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.tables import brief_locks, fences, progress, snapshots
from eventsource.tenant_ids import stored

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence


async def prepare(
    connections: DriverConnections, migration: Migration, owner: UUID, carry_on: Callable[[], bool]
) -> None:
    """Close the target, reserve numbers there, then guard the source; may be repeated.

    The source's fence row is committed before its triggers exist, and all triggers exist before
    the first row is read.
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
        await arriving.close(table, closed, stored(migration.tenant_id))
        # The tenant may be back, and is no longer one that has left.
        await arriving.renew(table)

    await arriving.each(close, closed, carry_on)
    await failpoints.reach("guard.target.triggers.committed")
    await _reserve(connections, migration, owner, shape, origin.system, carry_on)

    opened = await fences.raise_fence(
        source, tenant_id=migration.tenant_id, migration_id=migration.id,
        store_id=migration.source_store_id, role="source", generation=migration.generation,
        budget_seconds=budget, peer=migration.target_identity,
    )  # fmt: skip
    await failpoints.reach("guard.source.row.committed")
    leaving = Guarded(source, source.layout)
    await leaving.each(leaving.renew, opened, carry_on)
    await failpoints.reach("guard.source.triggers.committed")
    at = await progress.claim(target, migration.id, owner)
    assert at is not None
    await failpoints.reach("guard.progress.committed")
    await connections.migrations.record_offset(migration.id, owner, at.position_offset)


async def mend(table: Guarded, fence: Fence, tenant: str, carry_on: Callable[[], bool]) -> None:
    """Make again what others have taken away since; looked at without a lock first."""

    if fence.role == "source":
        if await watching.weak(table.table):
            await table.each(table.renew, fence, carry_on)
    elif fence.state == "closed":
        lacking = await table.without_arrival(fence)
        if lacking:

            async def close(each: LayoutTable) -> None:
                if each.name in lacking:
                    await table.close(each, fence, tenant)

            await table.each(close, fence, carry_on)


async def count_tenant(connections: DriverConnections, migration: Migration) -> int:
    """How many rows of the tenant there are now, in all tables."""
    source, target = connections.source, connections.target
    assert source.layout is not None
    shape = await shape_of(source, target, source.layout, migration.tenant_id)
    total = 0
    for table in source.layout.tables:
        total += await source.connection.fetchval(
            f"select count(*) from {shape.rows(table, shape.source)} mine",
            timeout=LONG_STATEMENT_SECONDS,
        )
    return total


async def _reserve(
    connections: DriverConnections, migration: Migration, owner: UUID, shape: Shape, system: str,
    carry_on: Callable[[], bool],
) -> None:  # fmt: skip
    """Keep numbers free at the target for those of the source, and write the progress row.

    In one transaction, with the writers of the tables held off, so that "empty" is exact.
    """
    target = connections.target
    if await progress.read(target, migration.id) is not None:
        return
    numbers = await _numbers(connections.source, shape)

    async def reserve() -> None:
        for table in shape.layout.tables:
            name = shape.target.name(table.name)
            await target.connection.execute(f"lock table {name} in share row exclusive mode")
        await preflight.refuse_rows(target, shape)
        agreed = await _agree(target, shape, numbers)
        main = shape.layout.events
        await target.connection.execute(
            f"insert into {target.progress} (migration_id, tenant_id, table_name, owner,"
            " position_offset, last_target_position, source_system, carriage)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb)",
            migration.id, stored(migration.tenant_id), target.address.table, owner,
            agreed.offsets.get(main, 0), agreed.last.get(main, 0), system, agreed.to_json(),
        )  # fmt: skip
        await failpoints.reach("guard.target.reserved")

    await brief_locks.transact(
        target.connection, reserve, carry_on,
        what=f"for locks on the tables in store {migration.target_store_id!r}",
        look=lambda seconds: blockers.of_table(target.connection, target.name, seconds),
    )  # fmt: skip


async def _numbers(source: AnyTable, shape: Shape) -> dict[str, int]:
    """By table with numbers of its own: the last that its sequence has given."""
    found = {}
    for table in shape.layout.tables:
        for numbering in table.numbered:
            if numbering.like is None:
                sequence = await sequence_of(source, table, numbering.column, numbering.sequence)
                value = await source.connection.fetchval(
                    "select coalesce(pg_sequence_last_value($1::text::regclass), 0)", sequence
                )
                found[table.name] = int(value)
    return found


async def sequence_of(side: AnyTable, table: LayoutTable, column: str, given: str | None) -> str:
    """The sequence that gives a column its numbers, quoted.

    Raises:
        PreflightError: there is none.
    """
    name = side.beside(table.name)
    if given is not None:
        found = await side.connection.fetchval("select to_regclass($1)::text", side.beside(given))
        if found is None:
            raise PreflightError([f"{name}: there is no sequence {side.beside(given)}"])
        return side.beside(given)
    found = await side.connection.fetchval("select pg_get_serial_sequence($1, $2)", name, column)
    if found is None:
        raise PreflightError(
            [
                f"{column} of {name} draws from no sequence of its own: name it in the layout,"
                f' numbered = {{ {column} = "own:SEQUENCE" }}'
            ]
        )
    return str(found)


async def _agree(target: AnyTable, shape: Shape, numbers: dict[str, int]) -> Carriage:
    """Offset 0 where the target's table is unused; else numbers begin after all it has given."""
    offsets: dict[str, int] = {}
    last: dict[str, int] = {}
    before: dict[str, int | None] = {}
    for table in shape.layout.tables:
        for numbering in table.numbered:
            if numbering.like is not None:
                continue
            sequence = await sequence_of(target, table, numbering.column, numbering.sequence)
            column, name = quote_identifier(numbering.column), shape.target.name(table.name)
            row: Any = await target.connection.fetchrow(
                f"select pg_sequence_last_value($1::text::regclass) as given,"
                f" (select max({column}) from {name}) as highest",
                sequence,
            )
            used = row["given"] is not None or row["highest"] is not None
            offset = max(row["given"] or 0, row["highest"] or 0) if used else 0
            offsets[table.name] = offset
            last[table.name] = offset + numbers[table.name] + shape.layout.headroom
            before[sequence] = row["given"]
            # Numbers of others begin after those that are kept; a rollback keeps the gap.
            await target.connection.fetchval(
                "select setval($1::text::regclass, $2)", sequence, last[table.name]
            )
    if shape.layout.is_whole:
        numbers_before = await whole.sequences(target)
        before = {target.beside(name): given for name, given in numbers_before.items()}
    stamp = await target.connection.fetchval("select pg_current_xact_id()::text")
    return Carriage(shape.layout.name, offsets, last, str(stamp), before)
