"""What every event store offers, and the values that cross it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable
from uuid import UUID

if TYPE_CHECKING:
    from eventsource.events import DomainEvent

__all__ = ["AppendResult", "EventStore", "EventStream", "ExpectedVersion", "StoredEvent"]


class ExpectedVersion:
    """What ``append_events`` may expect of the stream besides a version number."""

    ANY: Final = -1
    """No expectation: the events go to the end of the stream, also when others append to it."""
    NO_STREAM: Final = 0
    """The stream has no events yet."""
    STREAM_EXISTS: Final = -2
    """The stream has at least one event."""


@dataclass(frozen=True, slots=True)
class AppendResult:
    """An append that is stored: ``new_version`` of the stream, position of the last event."""

    success: bool
    new_version: int
    global_position: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One row of an event table. Reading it needs no event class."""

    event_id: UUID
    event_type: str
    aggregate_id: UUID
    aggregate_type: str
    tenant_id: UUID | None
    version: int
    timestamp: datetime
    actor_id: str | None
    payload: dict[str, Any]
    metadata: dict[str, Any]
    global_position: int
    created_at: datetime

    @property
    def event(self) -> DomainEvent:
        """The event as an instance of its registered class, made by its ``from_envelope``.

        Raises:
            UnknownEventTypeError: no class is registered for ``event_type``.
            pydantic.ValidationError: the payload does not fit the class.
        """
        # Loaded here: rows are read, moved and counted without event classes.
        from eventsource.events import registered_event_class

        envelope = {
            "event_id": self.event_id,
            "event_type": self.event_type,
            "aggregate_id": self.aggregate_id,
            "aggregate_type": self.aggregate_type,
            "aggregate_version": self.version,
            "tenant_id": self.tenant_id,
            "timestamp": self.timestamp,
            "actor_id": self.actor_id,
            "metadata": self.metadata,
        }
        return registered_event_class(self.event_type).from_envelope(envelope, self.payload)


@dataclass(frozen=True, slots=True)
class EventStream:
    """Events of one aggregate in version order; ``version`` is the stream's, 0 when it is empty.

    ``aggregate_type`` is None when the caller named none and there was no event to take it from.
    """

    events: list[DomainEvent]
    version: int
    aggregate_id: UUID
    aggregate_type: str | None


@runtime_checkable
class EventStore(Protocol):
    """An append-only store of event streams with one global order.

    ``tenant_id`` on a read restricts it to that tenant; a router also finds the store by it.
    """

    async def append_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        events: Sequence[DomainEvent],
        expected_version: int,
    ) -> AppendResult:
        """Store the events as the next versions of the stream, all or none.

        Appending the same event ids again is a success with the stored version and position.

        Raises:
            OptimisticLockError: the stream is not at ``expected_version``.
            EventIdTakenError: an event id is stored with other content.
            StreamTenantError: the stream belongs to another tenant.
            ValueError: no events, or events of another aggregate or of several tenants.
        """
        ...

    async def get_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> EventStream:
        """The stream's events with a version greater than ``from_version``.

        Raises:
            UnknownEventTypeError: an event's class is not registered.
            ValueError: several aggregate types share the id and none was named.
        """
        ...

    def read_stream(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """As ``get_events``, row by row and without event classes."""
        ...

    def read_all(
        self,
        from_position: int = 0,
        *,
        tenant_id: UUID | None = None,
        limit: int | None = None,
        event_types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Events with a position greater than ``from_position``, ascending, at most ``limit``.

        Ends at the last position below which nothing can appear any more: a reader that goes on
        from the last position it saw never misses an event.

        Args:
            event_types: only events of these stored types.
            since, until: only events whose ``timestamp`` is in ``since <= timestamp < until``.
                Types and times have no index of their own: every event of the tenant, or of the
                table, after ``from_position`` is looked at.
        """
        ...

    def read_backwards(
        self,
        before_position: int | None = None,
        *,
        tenant_id: UUID | None = None,
        limit: int | None = None,
        event_types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """The newest events first, those with a position below ``before_position``.

        Gives what ``read_all`` would give now, from its end: ``limit=50`` are the last fifty. The
        filters are the same.
        """
        ...

    async def get_stream_version(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        *,
        tenant_id: UUID | None = None,
    ) -> int:
        """The version of the stream's last event, 0 when it has none."""
        ...

    async def event_exists(self, event_id: UUID, *, tenant_id: UUID | None = None) -> bool:
        """Whether an event with this id is stored."""
        ...

    async def get_global_position(self) -> int:
        """The position of the last event that ``read_all`` would give now, 0 when empty."""
        ...
