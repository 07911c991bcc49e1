"""The event store in the memory of one process, for tests and for trying things out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.errors import OptimisticLockError, StreamTenantError
from eventsource.stores.encoding import Append, EventRow, decode_object, encode_append
from eventsource.stores.interface import (
    AppendResult,
    EventStream,
    ExpectedVersion,
    StoredEvent,
)
from eventsource.stores.reading import sole_type
from eventsource.stores.repeated import StoredId, repeated_append
from eventsource.stores.selection import Selection

if TYPE_CHECKING:
    from eventsource.events import DomainEvent

__all__ = ["InMemoryEventStore"]


class InMemoryEventStore:
    """As the PostgreSQL store: the same checks, the same JSON in between, the same errors.

    An append happens between two turns of the event loop, so no reader sees half of one and the
    head of the feed is simply the last position. It is not for use from several threads.
    """

    def __init__(self) -> None:
        self._feed: list[StoredEvent] = []
        self._streams: dict[tuple[UUID, str], list[StoredEvent]] = {}
        self._by_id: dict[UUID, tuple[StoredEvent, EventRow]] = {}

    async def append_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        events: Sequence[DomainEvent],
        expected_version: int,
    ) -> AppendResult:
        """Store the events as the next versions of the stream, all or none.

        Raises:
            OptimisticLockError: the stream is not at ``expected_version``.
            EventIdTakenError: an event id is stored with other content.
            StreamTenantError: the stream belongs to another tenant.
            ValueError: the events do not belong in one append; the message says why.
        """
        request = encode_append(aggregate_id, aggregate_type, events, expected_version)
        stored = self._already_stored(request)
        if stored is not None:
            return stored
        stream = self._streams.get((aggregate_id, aggregate_type), [])
        version = len(stream)
        if stream and stream[-1].tenant_id != request.tenant_id:
            raise StreamTenantError(
                aggregate_id, aggregate_type, request.tenant_id, stream[-1].tenant_id
            )
        if not _is_expected(expected_version, version):
            raise OptimisticLockError(aggregate_id, aggregate_type, expected_version, version)
        created_at = datetime.now(UTC)
        for row in request.rows:
            version += 1
            event = StoredEvent(
                event_id=row.event_id,
                event_type=row.event_type,
                aggregate_id=aggregate_id,
                aggregate_type=aggregate_type,
                tenant_id=request.tenant_id,
                version=version,
                timestamp=row.timestamp,
                actor_id=row.actor_id,
                payload=decode_object(row.payload),
                metadata=decode_object(row.metadata),
                global_position=len(self._feed) + 1,
                created_at=created_at,
            )
            stream.append(event)
            self._feed.append(event)
            self._by_id[row.event_id] = (event, row)
        self._streams[aggregate_id, aggregate_type] = stream
        return AppendResult(True, version, len(self._feed))

    async def get_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> EventStream:
        """The stream's events with a version greater than ``from_version``, as event classes.

        Raises:
            UnknownEventTypeError: an event's class is not registered.
            ValueError: several aggregate types share the id and none was named.
        """
        rows = self._stream(aggregate_id, aggregate_type, tenant_id)
        return EventStream(
            events=[row.event for row in rows if row.version > from_version],
            version=rows[-1].version if rows else 0,
            aggregate_id=aggregate_id,
            aggregate_type=rows[-1].aggregate_type if rows else aggregate_type,
        )

    async def read_stream(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """The stream's rows with a version greater than ``from_version``, in version order.

        Raises:
            ValueError: several aggregate types share the id and none was named.
        """
        for row in self._stream(aggregate_id, aggregate_type, tenant_id):
            if row.version > from_version:
                yield row

    async def read_all(
        self,
        from_position: int = 0,
        *,
        tenant_id: UUID | None = None,
        limit: int | None = None,
        event_types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Events after ``from_position`` in the order of the feed, at most ``limit``.

        See `EventStore.read_all` for the filters.
        """
        chosen = Selection.of(tenant_id, event_types, since, until)
        head = len(self._feed)
        start = bisect_right(self._feed, from_position, key=lambda row: row.global_position)
        left = head if limit is None else limit
        for index in range(start, head):
            if left <= 0:
                return
            row = self._feed[index]
            if chosen.takes(row):
                left -= 1
                yield row

    async def read_backwards(
        self,
        before_position: int | None = None,
        *,
        tenant_id: UUID | None = None,
        limit: int | None = None,
        event_types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """The newest events first, those below ``before_position``, at most ``limit``.

        See `EventStore.read_all` for the filters.
        """
        chosen = Selection.of(tenant_id, event_types, since, until)
        head = len(self._feed) if before_position is None else before_position - 1
        left = len(self._feed) if limit is None else limit
        for row in self._feed[: max(head, 0)][::-1]:
            if left <= 0:
                return
            if chosen.takes(row):
                left -= 1
                yield row

    async def get_stream_version(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        *,
        tenant_id: UUID | None = None,
    ) -> int:
        """The version of the stream's last event, 0 when it has none.

        Raises:
            ValueError: several aggregate types share the id and none was named.
        """
        rows = self._stream(aggregate_id, aggregate_type, tenant_id)
        return rows[-1].version if rows else 0

    async def event_exists(self, event_id: UUID, *, tenant_id: UUID | None = None) -> bool:
        """Whether an event with this id is stored."""
        stored = self._by_id.get(event_id)
        return stored is not None and tenant_id in (None, stored[0].tenant_id)

    async def get_global_position(self) -> int:
        """The position of the last event, 0 when there is none."""
        return len(self._feed)

    def _stream(
        self, aggregate_id: UUID, aggregate_type: str | None, tenant_id: UUID | None
    ) -> list[StoredEvent]:
        streams: Iterable[list[StoredEvent]]
        if aggregate_type is not None:
            streams = (self._streams.get((aggregate_id, aggregate_type), []),)
        else:
            streams = (rows for key, rows in self._streams.items() if key[0] == aggregate_id)
        found = [row for rows in streams for row in rows if tenant_id in (None, row.tenant_id)]
        sole_type(aggregate_id, [row.aggregate_type for row in found])
        return found

    def _already_stored(self, request: Append) -> AppendResult | None:
        found = []
        for row in request.rows:
            if row.event_id in self._by_id:
                event, stored = self._by_id[row.event_id]
                stream = (event.aggregate_id, event.aggregate_type)
                found.append(
                    StoredId(
                        event_id=event.event_id,
                        version=event.version,
                        global_position=event.global_position,
                        same_stream=stream == (request.aggregate_id, request.aggregate_type),
                        same_tenant=event.tenant_id == request.tenant_id,
                        same_type=stored.event_type == row.event_type,
                        same_payload=stored.payload == row.payload,
                    )
                )
        return repeated_append(found, len(request.rows))


def _is_expected(expected: int, version: int) -> bool:
    if expected == ExpectedVersion.ANY:
        return True
    if expected == ExpectedVersion.STREAM_EXISTS:
        return version > 0
    return version == expected
