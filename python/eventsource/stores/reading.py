"""Rows into stored events, in chunks that memory can hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from uuid import UUID

from asyncpg import Record

from eventsource.declared import moment_of, uuid_of
from eventsource.stores import statements
from eventsource.stores.encoding import decode_object
from eventsource.stores.interface import StoredEvent
from eventsource.stores.selection import Selection


class ChunkSize:
    """How many rows to read at once: up to 1000, fewer where the events are large."""

    __slots__ = ("rows",)

    _FIRST_ROWS = 200
    _MAX_ROWS = 1000
    _CHARACTERS = 4_000_000

    def __init__(self) -> None:
        self.rows = self._FIRST_ROWS

    def adapt(self, rows: Sequence[Record]) -> None:
        """Take the average size of the last chunk for the next one's."""
        characters = sum(len(row["payload"]) + len(row["metadata"]) for row in rows)
        fitting = self._CHARACTERS * len(rows) // max(characters, 1)
        self.rows = max(1, min(self._MAX_ROWS, fitting))


async def pages(
    fetch: Callable[..., Awaitable[list[Record]]],
    chosen: Selection,
    hidden: Mapping[UUID, int],
    low: int,
    high: int,
    limit: int | None,
    *,
    backwards: bool = False,
) -> AsyncIterator[Record]:
    """Rows with ``low`` < position <= ``high``, chunk by chunk, without what is hidden.

    Args:
        fetch: runs a statement of the store.
    """
    if chosen.tenant_id is not None:
        high = min(high, hidden.get(chosen.tenant_id, high))
        hidden = {}
    left_out = (list(hidden), list(hidden.values()))
    statement: Callable[[str], str] = partial(statements.selected_rows, backwards=backwards)
    filters: tuple[object, ...]
    if backwards or chosen.by_content:
        filters = (chosen.tenant_id, chosen.event_types, chosen.since, chosen.until, *left_out)
    elif chosen.tenant_id is not None:
        statement, filters = statements.tenant_feed_rows, (chosen.tenant_id,)
    elif hidden:
        statement, filters = statements.feed_rows_without, left_out
    else:
        statement, filters = statements.feed_rows, ()
    size = ChunkSize()
    left = limit
    while left is None or left > 0:
        wanted = size.rows if left is None else min(size.rows, left)
        rows = await fetch(statement, low, high, wanted, *filters)
        for row in rows:
            yield row
        if len(rows) < wanted:
            return
        if backwards:
            high = rows[-1]["global_position"] - 1
        else:
            low = rows[-1]["global_position"]
        left = None if left is None else left - len(rows)
        size.adapt(rows)


def stored_event(row: Record) -> StoredEvent:
    """One row of ``statements.ROW_COLUMNS``."""
    return StoredEvent(
        event_id=uuid_of(row["event_id"]),
        event_type=row["event_type"],
        aggregate_id=uuid_of(row["aggregate_id"]),
        aggregate_type=row["aggregate_type"],
        tenant_id=uuid_of(row["tenant_id"]),
        version=row["version"],
        timestamp=moment_of(row["timestamp"]),
        actor_id=row["actor_id"],
        payload=decode_object(row["payload"]),
        metadata=decode_object(row["metadata"]),
        global_position=row["global_position"],
        created_at=moment_of(row["created_at"]),
    )


def sole_type(aggregate_id: UUID, found: Iterable[str]) -> str | None:
    """The one aggregate type among those of the rows found, None without rows.

    Raises:
        ValueError: there are several; the caller has to name one.
    """
    types = sorted(set(found))
    if len(types) > 1:
        raise ValueError(
            f"aggregate {aggregate_id} exists as {' and '.join(types)}: pass aggregate_type"
        )
    return types[0] if types else None
