"""A source that has gone back under a migration: the target follows it, and nothing is lost.

Appends go on. What the target holds and the source does not is kept in a table that no migration
deletes from, put back where its place is free and that is wanted, and taken out of the target: the
source hands those positions out again. Then the passes go on from what both hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from eventsource.commands import command
from eventsource.connections import transaction
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.consistency import both_sides
from eventsource.migration.consistency.only_in import only_in
from eventsource.migration.errors import MigrationError, RepairNeededError
from eventsource.migration.recovery import stranded
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.steps import preparation, rescue
from eventsource.migration.tables import fences, progress, reconciled, snapshots, witnesses
from eventsource.migration.tables.witnesses import Witness

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration
    from eventsource.migration.recovery.report import StrandedEvent
    from eventsource.migration.tables.progress import CopyProgress

#: Rows that are taken out at once.
PORTION = 10_000


@dataclass(frozen=True, slots=True)
class Differences:
    """What both stores hold of a tenant, as of a snapshot of the source.

    Attributes:
        spoiled: target positions of rows that the source does not hold as they are.
        lowest: the lowest transaction id of rows that the target lacks; None when it lacks none.
        undated: whether it lacks some that are older than every transaction id.
    """

    spoiled: Sequence[int]
    lowest: int | None
    undated: bool


async def reconcile(
    connections: DriverConnections, migration: Migration, owner: UUID, *, put_back: bool
) -> list[StrandedEvent]:
    """Bring target, mapping and progress in line with the source; what only the target had.

    Only for who has the lease. Every step may be repeated.

    Raises:
        RepairNeededError: the source has another event where the target has one that it lost; that
            one is kept, and an abort is the way out. Or no snapshot of it would show its rows.
    """
    source, target = connections.source, connections.target
    if (mend := await snapshots.mend_of_foreign_ids(source, migration.tenant_id)) is not None:
        # No pass would carry them but the one under the fence, which would be all of the copy.
        raise RepairNeededError(
            f"the source {source.address.table!r} holds rows whose transaction_id comes from"
            " another cluster: it was restored from a dump. Nothing was changed at the target:"
            f" `{command('abort', migration.id)}`, then repair them ({mend}), and start again"
        )
    at = await progress.claim(target, migration.id, owner)
    if at is None:
        raise MigrationError("the target has no progress row of this migration: abort it")
    await fences.refuse_unless_closed(target, migration.tenant_id, migration.id)
    # From here on no mirror writes; those that are writing are waited for.
    await fences.set_mirrored(target, migration.id, mirrored=False)
    # A source from before the start has neither fence nor guard.
    await preparation.prepare(connections, migration, owner, lambda: True)
    rows = [
        row
        async for row in only_in(
            target, source, migration.tenant_id, at.position_offset, at.last_target_position
        )
    ]
    events = await stranded.described(source, migration.tenant_id, rows, migration.target_store_id)
    await rescue.keep(target, migration.id, [event.event_id for event in events])
    if put_back:
        events = await stranded.put_back(target, source, events)
    await _refuse_conflicts(connections, migration, events)
    if at.proven_snapshot is None:
        await _begin_again(connections, migration, at)
    else:
        await _go_on(connections, migration, at)
    await fences.set_mirrored(target, migration.id, mirrored=True)
    return events


async def _refuse_conflicts(
    connections: DriverConnections, migration: Migration, events: Sequence[StrandedEvent]
) -> None:
    """Two events of one version: which of them counts is nobody's to guess."""
    taken = [each for each in events if (each.conflict or "").startswith("the stream has another")]
    if not taken:
        return
    named = "; ".join(
        f"{each.event_id} ({each.aggregate_type} {each.aggregate_id}, version {each.version})"
        for each in taken[:5]
    )
    more = f" and {len(taken) - 5} more" if len(taken) > 5 else ""
    raise RepairNeededError(
        f"the source {connections.source.address.table!r} has gone back, and in {len(taken)}"
        f" places has another event by now than the one it lost: {named}{more}. Those that it lost"
        f" are kept in the target's table {rescue.RESCUED}; append what they say in another way, or"
        f" leave it, and then abort migration {migration.id}"
    )


async def _begin_again(
    connections: DriverConnections, migration: Migration, at: CopyProgress
) -> None:
    """A copy that was not complete begins again: what it had carried is not known to be whole."""
    target = connections.target
    mapping = PostgreSQLPositionMappingRepository(connections.control)
    await _remove(connections, migration, at, None)
    await mapping.delete(migration.id)
    await reconciled.begin_copy_again(target, at)


async def _go_on(connections: DriverConnections, migration: Migration, at: CopyProgress) -> None:
    """The next pass carries what the target lacks; everything else is there and is compared."""
    source, target = connections.source, connections.target
    taken = await snapshots.take(source.connection)
    number = max(at.pass_number, await witnesses.highest(source, migration.id)) + 1
    witness = Witness(number, uuid4())
    await witnesses.stand(source, migration.id, witness, None, taken.system)
    found = await compare(connections, migration, at, taken.text)
    await _remove(connections, migration, at, found.spoiled)
    if found.undated:
        raise MigrationError(
            "the target lacks events that are older than every transaction id; abort the migration"
        )
    shown = taken.text
    if found.lowest is not None:
        shown = snapshots.below(taken.text, found.lowest)
    proven = await source.connection.fetchval(
        f"select count(*) from {source.name} where tenant_id = $1 and global_position > 0"
        " and (transaction_id is null or pg_visible_in_snapshot(transaction_id, $2::text"
        "::pg_snapshot))",
        migration.tenant_id, shown, timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip
    now = await snapshots.source_of(source.connection)
    await reconciled.go_on_from(target, at, witness, shown, int(proven), now)


async def compare(
    connections: DriverConnections, migration: Migration, at: CopyProgress, snapshot: str
) -> Differences:
    """Every row of the tenant on both sides, by event id, position and content."""
    source, target, tenant = connections.source, connections.target, migration.tenant_id
    columns = at.columns or []
    spoiled: list[int] = []
    position, last = at.position_offset, at.last_target_position
    while rows := await both_sides.portion(target, columns, tenant, position, last):
        position = rows[-1]["global_position"]
        ids = [row["event_id"] for row in rows]
        there = await both_sides.of_events(source, columns, ids, snapshot)
        known = {(row["event_id"], row["digest"], row["global_position"]) for row in there}
        spoiled += [
            row["global_position"]
            for row in rows
            if (row["event_id"], row["digest"], row["global_position"] - at.position_offset)
            not in known
        ]
    gone = set(spoiled)
    lowest: int | None = None
    undated, position = False, 0
    while rows := await both_sides.portion(source, columns, tenant, position, None, snapshot):
        position = rows[-1]["global_position"]
        ids = [row["event_id"] for row in rows]
        here = await both_sides.of_events(target, columns, ids, None)
        held = {row["event_id"] for row in here if row["global_position"] not in gone}
        oldest, some = await both_sides.oldest(source, [each for each in ids if each not in held])
        undated = undated or some
        if oldest is not None:
            lowest = oldest if lowest is None else min(lowest, oldest)
    return Differences(spoiled, lowest, undated)


async def _remove(
    connections: DriverConnections,
    migration: Migration,
    at: CopyProgress,
    positions: Sequence[int] | None,
) -> None:
    """Take rows out of the target with their mapping: those positions, or all of the block."""
    target = connections.target
    mapping = PostgreSQLPositionMappingRepository(connections.control)
    while positions is None or positions:
        if positions is None:
            rows: list[Any] = await target.connection.fetch(
                f"select global_position from {target.name} where tenant_id = $1"
                " and global_position > $2 and global_position <= $3 limit $4",
                migration.tenant_id, at.position_offset, at.last_target_position, PORTION,
            )  # fmt: skip
            some = [row["global_position"] for row in rows]
            if not some:
                return
        else:
            some, positions = list(positions[:PORTION]), positions[PORTION:]
        await mapping.remove(migration.id, some)
        async with transaction(target.connection) as connection:
            await connection.execute(
                f"select from {target.fences} where migration_id = $1 and role = 'target'"
                " and state = 'closed' and not mirrored for share",
                migration.id,
            )
            await connection.execute(
                f"delete from {target.name} where tenant_id = $1"
                " and global_position = any ($2::bigint[])"
                f" and exists (select from {target.fences} where migration_id = $3"
                " and role = 'target' and state = 'closed' and not mirrored)",
                migration.tenant_id, some, migration.id,
            )  # fmt: skip
        await asyncio.sleep(0)
