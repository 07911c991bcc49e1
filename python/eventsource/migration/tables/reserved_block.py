"""The block of positions that a target keeps for a tenant, and what it may take from others.

The positions of a tenant that moves are its own of the source, moved by a constant, and its block
at the target ends somewhere: at the source, the tenant that leaves can carry no number above that.
A tenant that arrives *there* sets the sequence past a block of its own, so it takes numbers that
those who leave still need. Therefore a departure writes down how far its numbers reach (the
``bounds`` of its fence), and an arrival takes at most half of what is left to the one with least,
or waits. Both hold the same lock: either the arrival sees the bounds, or the departure sees the
sequence as the arrival has left it, and reserves again. Two tenants that change places are
therefore moved one after the other.

A tenant that was decided on, and whose target has lost its block, waits in the same way, although
it writes nowhere meanwhile: its numbers are given, and without theirs the departure would fail.
Only a person can choose between the two, and abort that one. But the source draws no more for it:
what counts is where that had ended, and it goes on with what just suffices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.catalog.model import Sequence
from eventsource.migration import event_table
from eventsource.migration.connections.transactions import transaction
from eventsource.migration.errors import PreflightError, TargetBusyError
from eventsource.migration.event_table import AnyTable, OwnTable
from eventsource.migration.tables import progress
from eventsource.tenant_ids import TenantId, as_uuid, restored, stored

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.progress import CopyProgress
    from eventsource.migration.tables.snapshots import Snapshot

#: Positions kept free at the target for what the source will write during the migration.
HEADROOM = 1_000_000_000

#: First key of the lock under which numbers of a table are reserved and bounds are written down.
RESERVING_CLASS = 1163281241

#: A block with less than this part of its headroom is not begun with.
LEAST_PART = 100


@dataclass(frozen=True, slots=True)
class Departure:
    """A tenant that is leaving a table; ``bounds`` is None as long as they are unknown."""

    migration_id: UUID
    tenant_id: TenantId
    bounds: Mapping[str, int] | None


async def departures(target: AnyTable, migration_id: UUID) -> list[Departure]:
    """Who else is leaving the table in which this migration arrives.

    Called in the transaction that reserves: none of them changes its bounds until that ends.
    """
    await _lock(target)
    return [each for each in await leaving(target) if each.migration_id != migration_id]


async def leaving(table: AnyTable) -> list[Departure]:
    """Who is leaving the table with positions that are carried, the earliest first."""
    rows = await table.connection.fetch(
        f"select migration_id, tenant_id, bounds::text as bounds from {table.fences}"
        " where table_name = $1 and role = 'source' and state = 'open'"
        # A way back draws new positions, and those of older versions have not written that down.
        " and (mirrored or bounds is not null) order by fence_id",
        table.address.table,
    )  # fmt: skip
    return [
        Departure(
            row["migration_id"],
            restored(row["tenant_id"]),
            json.loads(row["bounds"]) if row["bounds"] is not None else None,
        )
        for row in rows
    ]


def last_of(
    table: str, others: Iterable[Departure], *, head: int, offset: int, numbers: int, headroom: int,
    is_decided: bool = False,
) -> int:  # fmt: skip
    """The last number of the block for ``numbers`` of the source, and some that it still draws.

    Args:
        table: the table whose numbers they are.
        others: who is leaving it.
        head: the last number that the target has drawn.
        offset: what is added to a number of the source.
        numbers: the last number that the source has drawn.
        headroom: how many more are kept where nobody is leaving.
        is_decided: the source draws no more for the tenant: it may do without any.

    Raises:
        TargetBusyError: another tenant that leaves needs the numbers; it passes with its move.
    """
    last = offset + numbers + headroom
    for other in others:
        bound = None if other.bounds is None else other.bounds.get(table)
        if other.bounds is not None and bound is None:
            continue
        most = head if bound is None else head + (bound - head) // 2
        if last > most:
            last = most
        if last < offset + numbers + (0 if is_decided else headroom // LEAST_PART):
            raise TargetBusyError(
                f"tenant {other.tenant_id} is leaving table {table!r} of the target (migration"
                f" {other.migration_id}), and needs the positions that this tenant would take;"
                " this migration goes on by itself when that one has been cut over or aborted"
            )
    return last


def is_used_up(bound: int, head: int, headroom: int) -> bool:
    """Whether a source at ``head`` is too near to the ``bound`` of its block to begin with it."""
    return bound - head < headroom // LEAST_PART // 2


async def bind(
    source: OwnTable, migration_id: UUID, bounds: Mapping[str, int], heads: Mapping[str, str],
    headroom: Mapping[str, int],
) -> None:  # fmt: skip
    """Write down how far the numbers of this departure reach, unless they are used up already.

    Args:
        bounds: by table: the last number of the source that has a place in the block.
        heads: by table: the sequence that draws its numbers.
        headroom: by table: how many numbers a whole block keeps free.

    Raises:
        TargetBusyError: another tenant has arrived meanwhile, and has set a sequence too far: what
            was reserved is reserved again.
    """
    async with transaction(source.connection):
        await _lock(source)
        used_up = False
        for table, bound in bounds.items():
            head = await event_table.head(source.connection, heads[table])
            used_up = used_up or is_used_up(bound, head, headroom[table])
        await source.connection.execute(
            f"update {source.fences} set bounds = $2::text::jsonb"
            " where migration_id = $1 and role = 'source' and state = 'open'",
            migration_id, json.dumps({} if used_up else dict(bounds)),
        )  # fmt: skip
    if used_up:
        raise TargetBusyError(
            "another tenant arrived at the source while positions were reserved for this one; they"
            " are reserved again"
        )


async def reserve(
    target: OwnTable, migration: Migration, owner: UUID, source_head: int, origin: Snapshot,
    *, is_decided: bool = False,
) -> bool:  # fmt: skip
    """Reserve the tenant's block of positions and write the progress row.

    Returns whether the table was found empty and unused; idempotent (then False). A block that was
    used up before anything was copied into it is made again.

    Runs inside the transaction that holds the target table's writers and other migrations off, so
    that "empty" and "head" are exact. An empty table gets offset 0: positions are then the source's
    own. In a table in use the block begins after everything handed out so far.

    Raises:
        TargetBusyError: another migration needs the table, or its positions, first.
    """
    before = await progress.read(target, migration.id)
    if before is not None and not _is_to_be_made_again(before, source_head):
        return False
    others = await departures(target, migration.id)
    sequence = await event_table.position_sequence(target)
    name = target.name
    if await event_table.holds_any(target, as_uuid(migration.tenant_id)):
        raise PreflightError([progress.already_there(migration.tenant_id, target.address.table)])
    in_use = await is_in_use(target, migration.id)
    head = await event_table.head(target.connection, sequence)
    highest = await target.connection.fetchval(
        f"select coalesce(max(global_position), 0) from {name}"
    )
    offset = max(head, highest) if in_use else 0
    last = max(
        last_of(
            target.address.table, others,
            head=head, offset=offset, numbers=source_head, headroom=HEADROOM,
            is_decided=is_decided,
        ),
        head,
    )  # fmt: skip
    await target.connection.execute(
        f"insert into {target.progress} as p (migration_id, tenant_id, table_name, owner,"
        " position_offset, last_target_position, source_system, source_started)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (migration_id) do update set"
        " position_offset = excluded.position_offset,"
        " last_target_position = excluded.last_target_position",
        migration.id, stored(migration.tenant_id), target.address.table, owner, offset, last,
        origin.system, origin.started,
    )  # fmt: skip
    # Anyone else's next event in this table lands above the block. A rollback keeps the gap.
    await target.connection.fetchval("select setval($1::text::regclass, $2)", sequence, last)
    return not in_use and before is None


async def advance(target: AnyTable, drawn: Iterable[tuple[Sequence, Sequence | None]]) -> None:
    """Set other sequences of the target past what the source's columns can have drawn by the flip.

    A column that draws from a sequence arrives with the source's values, so what the application
    appends after the move must not begin among them. ``drawn`` are pairs of target and source.
    """
    for there, here in drawn:
        used = max(here.last or 0 if here is not None else 0, there.last or 0)
        wanted = used + min(HEADROOM, max((there.most - used) // 4, 0))
        if here is not None and here.last is not None and (there.last or 0) < here.last:
            await target.connection.fetchval(
                "select setval($1::text::regclass, $2)", there.name, wanted
            )


def _is_to_be_made_again(at: CopyProgress, source_head: int) -> bool:
    """Before the first snapshot nothing goes by the block."""
    return at.is_untouched and is_used_up(
        at.last_target_position - at.position_offset, source_head, HEADROOM
    )


async def is_in_use(target: OwnTable, migration_id: UUID) -> bool:
    """Whether the table has rows or belongs to another migration as well.

    Raises:
        TargetBusyError: another migration is loading it without its indexes.
    """
    found: Any = await target.connection.fetchrow(
        f"select exists (select from {target.name}) as filled, exists (select from"
        f" {target.progress} where table_name = $1 and migration_id <> $2) as reserved,"
        f" exists (select from {target.progress} where table_name = $1 and migration_id <> $2"
        " and deferred_indexes is not null) as loading",
        target.address.table, migration_id,
    )  # fmt: skip
    if found["loading"]:
        raise TargetBusyError(
            f"another migration is loading {target.address.table!r}; this one follows when that is"
            " done"
        )
    return bool(found["filled"] or found["reserved"])


async def _lock(table: AnyTable) -> None:
    await table.connection.execute(
        "select pg_advisory_xact_lock($1, hashtext($2))", RESERVING_CLASS, table.name
    )
