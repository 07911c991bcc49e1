"""From domain events to the values of a row, with the checks that need no database."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.stores.interface import ExpectedVersion

if TYPE_CHECKING:
    from eventsource.events import DomainEvent

# An escaped NUL; after an escaped backslash it would be plain text.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class EventRow:
    """The columns of one event that its writer chooses; payload and metadata are JSON text."""

    event_id: UUID
    event_type: str
    timestamp: datetime
    actor_id: str | None
    payload: str
    metadata: str


@dataclass(frozen=True, slots=True)
class Append:
    """One checked append: rows of one stream and one tenant, in order."""

    aggregate_id: UUID
    aggregate_type: str
    tenant_id: UUID | None
    rows: tuple[EventRow, ...]
    expected_version: int


def encode_append(
    aggregate_id: UUID,
    aggregate_type: str,
    events: Sequence[DomainEvent],
    expected_version: int,
) -> Append:
    """Check what an append may not be, and encode its events.

    Raises:
        ValueError: no events, an event of another stream, several tenants, an id twice, a version
            that the expected one contradicts, or a value that JSON or jsonb cannot hold.
    """
    if not events:
        raise ValueError("append_events needs at least one event")
    _check_text(aggregate_type, "aggregate_type of the append")
    if expected_version < ExpectedVersion.STREAM_EXISTS:
        raise ValueError(
            f"expected_version is {expected_version}: pass a version, or ExpectedVersion.NO_STREAM "
            f"(0), ANY (-1) or STREAM_EXISTS (-2)"
        )
    tenant_id = events[0].tenant_id
    seen: set[UUID] = set()
    for ordinal, event in enumerate(events, start=1):
        _check_stream(event, aggregate_id, aggregate_type)
        if event.tenant_id != tenant_id:
            raise ValueError(
                f"one append holds events of tenants {tenant_id} and {event.tenant_id}: "
                f"append the events of each tenant on their own"
            )
        if event.event_id in seen:
            raise ValueError(f"event id {event.event_id} is twice in the append: pass it once")
        seen.add(event.event_id)
        _check_version(event, expected_version, ordinal)
    return Append(
        aggregate_id=aggregate_id,
        aggregate_type=aggregate_type,
        tenant_id=tenant_id,
        rows=tuple(encode_event(event) for event in events),
        expected_version=expected_version,
    )


def encode_event(event: DomainEvent) -> EventRow:
    """The row values of one event.

    Raises:
        ValueError: payload or metadata holds NaN, infinity, NUL, half of a surrogate pair, or what
            JSON cannot express; or another text holds what a text of PostgreSQL cannot.
    """
    # Loaded already by who has made the event; who only moves rows does without.
    from eventsource.events import event_type_of

    event_type = event_type_of(type(event))
    _check_text(event_type, "event type")
    _check_text(event.actor_id or "", f"actor_id of {event_type}")
    return EventRow(
        event_id=event.event_id,
        event_type=event_type,
        timestamp=event.timestamp,
        actor_id=event.actor_id,
        payload=_json_text(event.payload(), event_type, "payload"),
        metadata=_json_text(
            event.model_dump(mode="json", include={"metadata"})["metadata"], event_type, "metadata"
        ),
    )


def decode_object(text: str) -> dict[str, Any]:
    """A jsonb column as a dict; a payload that is no JSON object is kept under ``value``."""
    value = json.loads(text)
    return value if isinstance(value, dict) else {"value": value}


def _json_text(value: dict[str, Any], event_type: str, field: str) -> str:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError(
            f"the {field} of {event_type} holds NaN or infinity, which JSON cannot carry: "
            f"make it a string or None"
        ) from error
    if "\\u0000" in text and _ESCAPED_NUL.search(text):
        raise ValueError(
            f"the {field} of {event_type} holds a NUL character, which jsonb refuses: "
            f"remove it or encode the value"
        )
    _check_halves(text, f"{field} of {event_type}")
    return text


def _check_text(text: str, field: str) -> None:
    if "\x00" in text:
        raise ValueError(
            f"the {field} holds a NUL character, which PostgreSQL refuses: remove it or encode the"
            " value"
        )
    _check_halves(text, field)


def _check_halves(text: str, field: str) -> None:
    """What a client cuts in the middle of an emoji ends so; the driver would quote all of it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the {field} holds half of a surrogate pair, which is no character: remove it or"
            " encode the value"
        ) from None


def _check_stream(event: DomainEvent, aggregate_id: UUID, aggregate_type: str) -> None:
    if event.aggregate_id != aggregate_id or event.aggregate_type != aggregate_type:
        raise ValueError(
            f"event {event.event_id} belongs to {event.aggregate_type} {event.aggregate_id}, the "
            f"append to {aggregate_type} {aggregate_id}: append each stream's events on their own"
        )


def _check_version(event: DomainEvent, expected_version: int, ordinal: int) -> None:
    if event.aggregate_version is None or expected_version < 0:
        return
    assigned = expected_version + ordinal
    if event.aggregate_version != assigned:
        raise ValueError(
            f"event {event.event_id} says aggregate_version {event.aggregate_version}, but after "
            f"version {expected_version} it becomes {assigned}: leave aggregate_version unset"
        )
