"""The errors of events, stores and connections. Each keeps its data as attributes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

__all__ = [
    "ConnectionDetailsError",
    "CredentialsError",
    "EventIdTakenError",
    "EventSourceError",
    "FeedBlockedError",
    "HandlerError",
    "OptimisticLockError",
    "StoreSchemaError",
    "StreamTenantError",
    "UnknownEventTypeError",
]


class EventSourceError(Exception):
    """Root of every error that this package defines.

    It can be pickled and copied with its attributes, so pools of processes and queues carry it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is made again by calling its class with ``args``, which are its message here.
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[EventSourceError], args: tuple[Any, ...]) -> EventSourceError:
    return kind.__new__(kind, *args)


class OptimisticLockError(EventSourceError):
    """The stream is not at the version that the append expected; nothing was written.

    Attributes:
        aggregate_id, aggregate_type: the stream.
        expected_version: what the caller passed (-1 any, -2 exists, 0 new, or a version).
        actual_version: the version the stream has, 0 when it has no events.
    """

    def __init__(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        expected_version: int,
        actual_version: int,
    ) -> None:
        super().__init__(aggregate_id, aggregate_type, expected_version, actual_version)
        self.aggregate_id = aggregate_id
        self.aggregate_type = aggregate_type
        self.expected_version = expected_version
        self.actual_version = actual_version

    def __str__(self) -> str:
        expected = {
            -2: "an existing stream",
            -1: "any version",
            0: "no stream",
        }.get(self.expected_version, f"version {self.expected_version}")
        return (
            f"{self.aggregate_type} {self.aggregate_id}: expected {expected}, "
            f"the stream is at version {self.actual_version}; "
            f"read it again and decide on the new state"
        )


class EventIdTakenError(EventSourceError):
    """An event id of the append is already stored for something else; nothing was written.

    Attributes:
        event_id: the id that is taken.
        difference: what differs from the stored event, in words.
    """

    def __init__(self, event_id: UUID, difference: str) -> None:
        super().__init__(event_id, difference)
        self.event_id = event_id
        self.difference = difference

    def __str__(self) -> str:
        return (
            f"event id {self.event_id} is already stored {self.difference}; "
            f"give every new event its own event_id"
        )


class StreamTenantError(EventSourceError):
    """The stream belongs to another tenant; nothing was written.

    A stream with events of two tenants would be torn apart when one of them moves.

    Attributes:
        aggregate_id, aggregate_type: the stream.
        tenant_id: the tenant of the events, None when they have none.
        stream_tenant_id: the tenant of the stream's last event.
    """

    def __init__(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        tenant_id: UUID | None,
        stream_tenant_id: UUID | None,
    ) -> None:
        super().__init__(aggregate_id, aggregate_type, tenant_id, stream_tenant_id)
        self.aggregate_id = aggregate_id
        self.aggregate_type = aggregate_type
        self.tenant_id = tenant_id
        self.stream_tenant_id = stream_tenant_id

    def __str__(self) -> str:
        stream, ours = (
            f"tenant {tenant}" if tenant is not None else "no tenant"
            for tenant in (self.stream_tenant_id, self.tenant_id)
        )
        return (
            f"{self.aggregate_type} {self.aggregate_id} is a stream of {stream}, and the events are"
            f" of {ours}; append with the tenant of the stream, or to a stream of your own"
        )


class UnknownEventTypeError(EventSourceError):
    """A stored event has a type for which no class is registered in this process.

    Attributes:
        event_type: the stored type name.
    """

    def __init__(self, event_type: str) -> None:
        super().__init__(event_type)
        self.event_type = event_type

    def __str__(self) -> str:
        return (
            f"no class is registered for event type {self.event_type!r}: import the module that "
            f"defines it and decorate the class with @register_event, or read StoredEvents "
            f"(read_stream, read_all), which need no class"
        )


class StoreSchemaError(EventSourceError):
    """The event table is missing or is not what a store needs; the message names the fix."""


class FeedBlockedError(EventSourceError):
    """Transactions that did not announce their positions keep the head of the feed unknown.

    Attributes:
        blockers: one line for each of them: pid, age and query, or the prepared transaction.
        waited_seconds: how long the reader waited for them to end.
    """

    def __init__(self, blockers: tuple[str, ...], waited_seconds: float) -> None:
        super().__init__(blockers, waited_seconds)
        self.blockers = blockers
        self.waited_seconds = waited_seconds

    def __str__(self) -> str:
        return (
            f"open transactions write to the event table without announcing their positions; "
            f"waited {self.waited_seconds:.1f} s for: {'; '.join(self.blockers)}. End them, and "
            f"run create_schema() or `eventsource-migrate init` so that every writer announces"
        )


class HandlerError(EventSourceError):
    """A subscription's handler failed on an event; what ``on_error`` gets.

    The handler's exception is its ``__cause__``.

    Attributes:
        subscription_name, store_id: which subscription, and the store that it read.
        event_id: the event.
        position: its global position in that store.
    """

    def __init__(
        self, subscription_name: str, store_id: str, event_id: UUID, position: int
    ) -> None:
        super().__init__(subscription_name, store_id, event_id, position)
        self.subscription_name = subscription_name
        self.store_id = store_id
        self.event_id = event_id
        self.position = position

    def __str__(self) -> str:
        return (
            f"the handler of subscription {self.subscription_name!r} failed on event "
            f"{self.event_id} at position {self.position} of store {self.store_id!r}; "
            f"mend the handler, or leave the event out in on_error"
        )


class ConnectionDetailsError(EventSourceError):
    """A connection string cannot be read, made from a pool, or kept; the message names the part of
    it, says what to write instead, and quotes nothing."""


class CredentialsError(EventSourceError):
    """A function that was given as ``dsn=`` or ``password=`` failed; its error is the cause."""
