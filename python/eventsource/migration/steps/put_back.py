"""Events go back to a store that has lost them, to the positions that they had there.

A reader whose checkpoint is below such a position has not seen the event, and one whose checkpoint
is above has. Both stays true where the position is still above everything that the store has handed
out; where it is not, somebody may have read past it, and the event gets the next one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.identifiers import quote_identifier
from eventsource.migration import event_table
from eventsource.migration.tables import brief_locks

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable, OwnTable

#: Events that are put back in one transaction, during which nobody else appends.
PORTION = 500

#: What a store gives an event itself.
_ITS_OWN = ("global_position", "transaction_id")

#: Those that stay fit: asked while nobody else can append.
Fits = Callable[[Sequence[UUID]], Awaitable[Sequence[UUID]]]


async def put_back(
    kept: AnyTable,
    home: OwnTable,
    event_ids: Sequence[UUID],
    recorded: Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, int]]],
    fits: Fits,
) -> set[UUID]:
    """Insert events of ``kept`` into ``home``, in this order; returns those that are there now.

    Args:
        recorded: the positions that they had at home; those without one get the next.
        fits: which of them have a place in their streams; it is asked under the lock.
    """
    columns = await home.connection.fetch(
        "select a.attname::text as name from pg_attribute a where a.attrelid = $1::text::regclass"
        " and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''",
        home.name,
    )
    names = [row["name"] for row in columns if row["name"] not in _ITS_OWN]
    done: set[UUID] = set()
    for first in range(0, len(event_ids), PORTION):
        some = event_ids[first : first + PORTION]
        rows = await kept.connection.fetch(
            f"select event_id, row_to_json(e)::text as event from {kept.name} e"
            " where event_id = any ($1::uuid[])",
            list(some),
        )
        events = {row["event_id"]: row["event"] for row in rows}
        at = await recorded(some)
        done |= await _portion(
            home, names, [each for each in some if each in events], events, at, fits
        )
    return done


async def _portion(
    home: OwnTable,
    names: Sequence[str],
    order: Sequence[UUID],
    events: Mapping[UUID, str],
    recorded: Mapping[UUID, int],
    fits: Fits,
) -> set[UUID]:
    listed = ", ".join(map(quote_identifier, names))
    sequence = await event_table.position_sequence(home)
    done: set[UUID] = set()

    async def insert() -> None:
        # Nobody draws a position meanwhile, so that none is taken back or handed out twice.
        await home.connection.execute(f"lock table {home.name} in share row exclusive mode")
        head = await event_table.head(home.connection, sequence)
        fitting, positions = await fits(order), []
        for event_id in fitting:
            head = max(recorded.get(event_id, 0), head + 1)
            positions.append(head)
        if not fitting:
            return
        await home.connection.fetchval("select setval($1::text::regclass, $2)", sequence, head)
        inserted = await home.connection.fetch(
            f"insert into {home.name} (global_position, {listed}) overriding system value"
            f" select p.position, {', '.join(f'r.{quote_identifier(each)}' for each in names)}"
            " from unnest($1::bigint[], $2::text[]) as p(position, event),"
            f" json_populate_record(null::{home.name}, p.event::json) r order by p.position"
            " on conflict do nothing returning event_id",
            positions, [events[each] for each in fitting],
        )  # fmt: skip
        done.update(row["event_id"] for row in inserted)

    await brief_locks.transact(home.connection, insert, what=f"for a lock on {home.name}")
    return done
