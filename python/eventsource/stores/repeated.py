"""An append whose event ids are stored already: the same append again, or another event's ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from eventsource.errors import EventIdTakenError
from eventsource.stores.interface import AppendResult


@dataclass(frozen=True, slots=True)
class StoredId:
    """A stored event with an id of the append, and what it has in common with the new event."""

    event_id: UUID
    version: int
    global_position: int
    same_stream: bool
    same_tenant: bool
    same_type: bool
    same_payload: bool


def repeated_append(found: Sequence[StoredId], wanted: int) -> AppendResult | None:
    """The result of the earlier append of the same events, None when none of them is stored.

    Args:
        found: the stored ones, in the order of the append.
        wanted: how many events the append has.

    Raises:
        EventIdTakenError: an id is stored for something else.
    """
    if not found:
        return None
    for stored in found:
        for same, difference in (
            (stored.same_stream, "in another stream"),
            (stored.same_tenant, "for another tenant"),
            (stored.same_type, "with another event type"),
            (stored.same_payload, "with another payload"),
        ):
            if not same:
                raise EventIdTakenError(stored.event_id, difference)
    first, last = found[0], found[-1]
    if len(found) < wanted:
        raise EventIdTakenError(
            first.event_id, "without some other events of this append (append only the new ones)"
        )
    if [stored.version for stored in found] != list(
        range(first.version, first.version + len(found))
    ):
        raise EventIdTakenError(first.event_id, "in another order")
    return AppendResult(True, last.version, last.global_position)
