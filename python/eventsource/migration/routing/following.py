"""A subscription over all stores of a router, which follows each tenant to where it lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast
from uuid import UUID

import asyncpg

from eventsource.connections import connect, connection_parameters
from eventsource.errors import ConnectionDetailsError, FeedBlockedError
from eventsource.migration.failures import PASSING, first_of
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.repositories.routing import CHANNEL
from eventsource.migration.routing.known_routes import KnownRoutes
from eventsource.migration.routing.places import Places
from eventsource.subscriptions.delivery import Delivery, OnError
from eventsource.subscriptions.hearing import hearing
from eventsource.subscriptions.outages import DeliveryError, Outage, pause
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from asyncpg.pool import Pool

    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.interface import EventStore, StoredEvent
    from eventsource.subscriptions.checkpoints import CheckpointRepository

#: How often the routes are read when nothing was heard of a change (seconds).
ROUTES_EVERY = 5.0


@dataclass(slots=True)
class _Reader:
    """What belongs to one store."""

    store_id: str
    store: EventStore
    delivery: Delivery
    news: asyncio.Event


class TenantSubscription:
    """Hands every tenant's events to a handler, wherever the tenant lives; made by a router.

    Each event is delivered at least once, and those of one tenant in their order, through any
    number of moves. Tenants and routes that are new are picked up. There is one checkpoint per
    store and tenant, and one per store for its feed; a batch that ends early is delivered again
    only as far as it had not been handled in this process, or from its beginning by the next one.
    Two runners of one subscription lose nothing, but both deliver.
    """

    def __init__(
        self,
        name: str,
        stores: Mapping[str, EventStore],
        default_store_id: str,
        routes: PostgreSQLRoutingRepository,
        checkpoints: CheckpointRepository,
        handler: Callable[[StoredEvent], Awaitable[None]],
        tenants: Collection[UUID] | None,
        *,
        batch_size: int,
        poll_interval: float,
        on_error: OnError | None,
    ) -> None:
        if not name:
            raise ValueError("a subscription needs a name")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not poll_interval > 0:
            raise ValueError(f"poll_interval must be above 0 seconds, not {poll_interval}")
        self.name = name
        self._tenants = None if tenants is None else [as_uuid(each) for each in tenants]
        self._batch_size = batch_size
        self._poll_interval = poll_interval
        self._pool = routes.pool
        self._routes = KnownRoutes(routes, stores, default_store_id, self._tenants)
        self._readers = {
            store_id: _Reader(
                store_id, store, Delivery(name, store_id, handler, on_error), asyncio.Event()
            )
            for store_id, store in stores.items()
        }
        self._places = Places(
            name, checkpoints, PostgreSQLMigrationRepository(routes.pool), stores,
            default_store_id, keep_apart=self._tenants is not None,
        )  # fmt: skip
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Deliver until `stop`, an exception that waiting does not heal, or cancellation.

        A database that is away is waited for; the other stores go on meanwhile.
        """
        try:
            await self._again_and_again("routes", self._load)
            async with asyncio.TaskGroup() as group:
                following = group.create_task(self._follow())
                readers = [group.create_task(self._read(each)) for each in self._readers.values()]
                await self._stop.wait()
                for reader in self._readers.values():
                    reader.news.set()
                await asyncio.wait(readers)
                following.cancel()
        except BaseExceptionGroup as errors:
            error = first_of(errors)
        else:
            return
        finally:
            self._stop.clear()
        raise error.error if isinstance(error, DeliveryError) else error

    async def catch_up(self) -> int:
        """Deliver until no store had anything more; returns the number of events."""
        await self._load()
        delivered = 0
        for reader in self._readers.values():
            more = True
            while more:
                try:
                    handled, more = await self._turn(reader)
                except DeliveryError as failed:
                    error = failed.error
                    break
                delivered += handled
            else:
                continue
            raise error
        return delivered

    def stop(self) -> None:
        """Make `run` return after the batches under way."""
        self._stop.set()

    def wake(self, store_id: str) -> None:
        """There is something new in a store: look now and not when it is due."""
        reader = self._readers.get(store_id)
        if reader is not None:
            reader.news.set()

    async def _again_and_again(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do it once, over outages."""
        outage = Outage(f"subscription {self.name!r} over its {what}")
        while not self._stop.is_set():
            try:
                await work()
            except Exception as error:
                await outage.sit_out(error, self._stop)
                continue
            outage.over()
            return

    async def _read(self, reader: _Reader) -> None:
        async with hearing(reader.store, reader.news.set):
            await self._read_on(reader)

    async def _read_on(self, reader: _Reader) -> None:
        outage = Outage(f"subscription {self.name!r} over store {reader.store_id!r}")
        while not self._stop.is_set():
            try:
                reader.news.clear()
                _, more = await self._turn(reader)
            except Exception as error:
                await outage.sit_out(error, self._stop)
                continue
            outage.over()
            if not more:
                await pause(self._poll_interval, reader.news)

    async def _turn(self, reader: _Reader) -> tuple[int, bool]:
        """One batch of each tenant that is read alone, one of the feed; whether there is more."""
        await self._routes.confirm(reader.store_id)
        delivered, more = 0, False
        for tenant_id in list(self._places.joining[reader.store_id]):
            batch = await self._alone(reader, tenant_id)
            delivered += batch
            more = more or batch >= self._batch_size
        if self._tenants is None:
            batch = await self._feed(reader)
            delivered += batch
            more = more or batch >= self._batch_size
        return delivered, more

    async def _alone(self, reader: _Reader, tenant_id: UUID) -> int:
        places, store_id = self._places, reader.store_id
        after = places.position(store_id, tenant_id)
        batch = [
            event
            async for event in self._routes.asking(store_id).read_all(
                after, tenant_id=tenant_id, limit=self._batch_size
            )
        ]
        for event in batch:
            await self._deliver(reader, event, alone=True)
        if places.position(store_id, tenant_id) > after:
            await places.save(store_id, tenant_id)
        if len(batch) < self._batch_size and self._tenants is None:
            await self._join(reader, tenant_id)
        return len(batch)

    async def _join(self, reader: _Reader, tenant_id: UUID) -> None:
        """Go on with the feed once nothing of the tenant is left below it.

        That the read before gave no more does not say so: while the head of the feed is unknown it
        gives nothing, and nothing of a tenant that the store hides.
        """
        if await self._routes.is_hidden(reader.store_id, tenant_id):
            return
        passed = self._places.passed[reader.store_id]
        last = 0
        with contextlib.suppress(FeedBlockedError):
            async for event in self._routes.asking(reader.store_id).read_backwards(
                passed + 1, tenant_id=tenant_id, limit=1
            ):
                last = event.global_position
            if last <= self._places.position(reader.store_id, tenant_id):
                self._places.joining[reader.store_id].discard(tenant_id)

    async def _feed(self, reader: _Reader) -> int:
        places, store_id = self._places, reader.store_id
        batch = [
            event
            async for event in self._routes.asking(store_id).read_all(
                places.passed[store_id], limit=self._batch_size
            )
        ]
        touched: set[UUID] = set()
        for event in batch:
            if await self._deliver(reader, event, alone=False) and event.tenant_id is not None:
                touched.add(event.tenant_id)
        for tenant_id in touched:
            await places.save(store_id, tenant_id)
        if batch:
            await places.pass_on(store_id, batch[-1].global_position)
        return len(batch)

    async def _deliver(self, reader: _Reader, event: StoredEvent, *, alone: bool) -> bool:
        """Hand the event over if it is read here, in this way, and is not handled yet."""
        tenant_id, store_id, places = event.tenant_id, reader.store_id, self._places
        if tenant_id is None:
            await reader.delivery.deliver(event)
            return True
        async with places.turn(tenant_id):
            if places.home(tenant_id) != store_id:
                return False
            if not alone and tenant_id in places.joining[store_id]:
                return False
            if event.global_position > places.position(store_id, tenant_id):
                await reader.delivery.deliver(event)
                places.handled(store_id, tenant_id, event.global_position)
            return True

    async def _load(self) -> None:
        await self._places.load(await self._routes.read())

    async def _follow(self) -> None:
        """Follow every route, when a change is heard and when it is due."""
        news = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(news))
            while True:
                news.clear()
                await self._again_and_again("routes", self._follow_once)
                await pause(ROUTES_EVERY, news)

    async def _follow_once(self) -> None:
        for route in await self._routes.read():
            if await self._places.follow(route):
                self.wake(route.store_id)

    async def _listen(self, news: asyncio.Event) -> None:
        while True:
            connection = None
            with contextlib.suppress(*PASSING, asyncpg.PostgresError):
                try:
                    parameters = await connection_parameters(
                        cast("Pool[asyncpg.Record]", self._pool)
                    )
                    connection = await connect(
                        parameters, application_name="eventsource-subscription"
                    )
                    lost = asyncio.Event()
                    connection.add_termination_listener(partial(_set, lost))
                    await connection.add_listener(CHANNEL, partial(_set, news))
                    news.set()  # what was announced before is not heard
                    await lost.wait()
                except ConnectionDetailsError:
                    return  # routes are read when due
                finally:
                    if connection is not None:
                        connection.terminate()
            await asyncio.sleep(1)


def _set(event: asyncio.Event, *_: object) -> None:
    event.set()
