"""Event stores: one interface, kept in PostgreSQL or in memory."""

from eventsource.stores.interface import (
    AppendResult,
    EventStore,
    EventStream,
    ExpectedVersion,
    StoredEvent,
)

__all__ = ["AppendResult", "EventStore", "EventStream", "ExpectedVersion", "StoredEvent"]
