"""The reads of a router: each goes to where its tenant lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.errors import RoutingError
from eventsource.migration.failures import may_pass
from eventsource.stores.asked import asked
from eventsource.stores.interface import EventStore, EventStream, StoredEvent
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.stores.sessions import ServerChanged
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.migration.models import TenantRouting
    from eventsource.migration.routing.arrival import Arrivals
    from eventsource.tenant_ids import TenantId


class RoutedReads:
    """The reading half of a router.

    Attributes:
        stores: every store by id.
        default_store: where tenants without a route live.
    """

    stores: dict[str, EventStore]
    default_store: EventStore
    _arrivals: Arrivals

    async def route(self, tenant_id: TenantId) -> TenantRouting:
        """Where the tenant lives, as far as this process knows."""
        raise NotImplementedError

    async def _home(self, tenant_id: UUID) -> EventStore:
        raise NotImplementedError

    async def _reader(self, tenant_id: UUID) -> EventStore:
        """Where to read. A server that was started since may have gone back to before the tenant
        came there: it is asked before anything is read from it.
        """
        tenant_id = as_uuid(tenant_id)
        home, route = await self._home(tenant_id), await self.route(tenant_id)
        if route.generation <= 0 or not isinstance(home, PostgreSQLEventStore):
            return home

        async def ask() -> None:
            self._arrivals.doubt(route.store_id, ServerChanged())
            await self._home(tenant_id)

        return asked(home, ask)

    async def _home_of_stream(
        self, aggregate_id: UUID, aggregate_type: str | None, tenant_id: UUID | None
    ) -> EventStore:
        """The store that holds the stream, found by its tenant.

        A stream that is in no store belongs to the default one. While a store is away, that cannot
        be said of a stream that is in no other.
        """
        if tenant_id is not None:
            return await self._reader(tenant_id)
        away: Exception | None = None
        others = [store for store in self.stores.values() if store is not self.default_store]
        for store in (self.default_store, *others):
            try:
                event = await _first_event(store, aggregate_id, aggregate_type)
            except Exception as error:
                # It may be in one that answers; only without it nobody can say where it is.
                if not may_pass(error):
                    raise
                away = away or error
                continue
            if event is not None:
                return store if event.tenant_id is None else await self._reader(event.tenant_id)
        if away is not None:
            raise away
        return self.default_store

    async def get_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> EventStream:
        """The stream's events from where its tenant lives."""
        if tenant_id is None:
            # One read suffices where the tenant has not moved, which is the usual case.
            stream = await self._in_the_default_store(aggregate_id, aggregate_type, from_version)
            tenant = stream.events[0].tenant_id if stream and stream.events else None
            if stream and tenant is not None and await self._home(tenant) is self.default_store:
                return stream
        home = await self._home_of_stream(aggregate_id, aggregate_type, tenant_id)
        return await home.get_events(
            aggregate_id, aggregate_type, from_version, tenant_id=_given(tenant_id)
        )

    async def _in_the_default_store(
        self, aggregate_id: UUID, aggregate_type: str | None, from_version: int
    ) -> EventStream | None:
        """None while that store is away: the stream may be in another one."""
        try:
            return await self.default_store.get_events(aggregate_id, aggregate_type, from_version)
        except Exception as error:
            if not may_pass(error):
                raise
            return None

    async def read_stream(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """The stream's stored events from where its tenant lives.

        It goes on at the new home of a tenant that leaves meanwhile: the rows that it has left may
        be removed before a slow reader comes to them.
        """
        only = _given(tenant_id)
        while True:
            generation = await self._generation(tenant_id)
            home = await self._home_of_stream(aggregate_id, aggregate_type, tenant_id)
            async for event in home.read_stream(
                aggregate_id, aggregate_type, from_version, tenant_id=only
            ):
                if tenant_id is None and event.tenant_id is not None:
                    tenant_id = event.tenant_id
                    generation = await self._generation(tenant_id)
                if event.version > from_version + 1 and await self._has_left(tenant_id, generation):
                    break
                from_version = event.version
                yield event
            if not await self._has_left(tenant_id, generation):
                return

    async def _generation(self, tenant_id: UUID | None) -> int:
        """Of the tenant's route: another one once it lives in another store."""
        return 0 if tenant_id is None else (await self.route(as_uuid(tenant_id))).generation

    async def _has_left(self, tenant_id: UUID | None, generation: int) -> bool:
        """Whether the tenant lives elsewhere than when its route was of this generation."""
        if tenant_id is None:
            return False
        await self._home(tenant_id)
        return await self._generation(tenant_id) != generation

    async def _whole(
        self, home: EventStore, tenant_id: UUID | None, events: AsyncIterator[StoredEvent]
    ) -> AsyncIterator[StoredEvent]:
        """The events, and an error at the end where they may lack what was removed meanwhile.

        Old rows are removed from the lowest position on, so while the lowest one is there all are.
        """
        generation, first, last = await self._generation(tenant_id), None, None
        async for event in events:
            first, last = first or event, event
            yield event
        if first is None or last is None or not await self._has_left(tenant_id, generation):
            return
        lowest = min(first, last, key=lambda event: event.global_position)
        if not await home.event_exists(lowest.event_id):
            raise RoutingError(
                f"tenant {tenant_id} has moved while its feed was read, and its old rows were"
                " removed: read it again where it lives now, at positions of that store"
            )

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
        """A tenant's feed from where it lives; without a tenant the default store's own feed."""
        home = self.default_store if tenant_id is None else await self._reader(tenant_id)
        events = home.read_all(
            from_position, tenant_id=tenant_id, limit=limit, event_types=event_types,
            since=since, until=until,
        )  # fmt: skip
        async for event in self._whole(home, tenant_id, events):
            yield event

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
        """A tenant's newest events first; without a tenant those of the default store."""
        home = self.default_store if tenant_id is None else await self._reader(tenant_id)
        events = home.read_backwards(
            before_position, tenant_id=tenant_id, limit=limit, event_types=event_types,
            since=since, until=until,
        )  # fmt: skip
        async for event in self._whole(home, tenant_id, events):
            yield event

    async def get_stream_version(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        *,
        tenant_id: UUID | None = None,
    ) -> int:
        """The stream's version where its tenant lives; 0 when there is none."""
        home = await self._home_of_stream(aggregate_id, aggregate_type, tenant_id)
        return await home.get_stream_version(
            aggregate_id, aggregate_type, tenant_id=_given(tenant_id)
        )

    async def event_exists(self, event_id: UUID, *, tenant_id: UUID | None = None) -> bool:
        """Whether the event is where its tenant lives, or anywhere when no tenant is given."""
        if tenant_id is not None:
            home = await self._reader(tenant_id)
            return await home.event_exists(event_id, tenant_id=_given(tenant_id))
        away: Exception | None = None
        for store in self.stores.values():
            try:
                if await store.event_exists(event_id):
                    return True
            except Exception as error:
                if not may_pass(error):
                    raise
                away = away or error
        if away is not None:
            raise away
        return False

    async def get_global_position(self) -> int:
        """The default store's head; positions of different stores do not compare."""
        return await self.default_store.get_global_position()


def _given(tenant_id: UUID | None) -> UUID | None:
    """The tenant that a read is restricted to, as a store takes it: tenants share stores."""
    return None if tenant_id is None else as_uuid(tenant_id)


async def _first_event(
    store: EventStore, aggregate_id: UUID, aggregate_type: str | None
) -> StoredEvent | None:
    async for event in store.read_stream(aggregate_id, aggregate_type):
        return event
    return None
