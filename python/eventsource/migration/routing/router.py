"""A store that follows each tenant to where it lives."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID
from weakref import WeakSet

import asyncpg

from eventsource.migration import telemetry
from eventsource.migration.errors import MigrationError, RoutingError, WritePausedError
from eventsource.migration.failures import PASSING
from eventsource.migration.models import TenantRouting
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.routing import departures, flips, warmth
from eventsource.migration.routing.arrival import Answer, Arrivals, not_opened
from eventsource.migration.routing.bells import Bells
from eventsource.migration.routing.following import TenantSubscription
from eventsource.migration.routing.mirror import DualWriteInterceptor, DualWriteStats
from eventsource.migration.routing.pauses import PausedTenants
from eventsource.migration.routing.readiness import Readiness
from eventsource.migration.routing.reads import RoutedReads
from eventsource.migration.routing.route_cache import RouteCache
from eventsource.migration.routing.transactions import Appended, Result, TenantTransaction, attempt
from eventsource.migration.states import TenantMigrationState
from eventsource.sqlstates import (
    MOVED,
    NOT_OPEN_YET,
    SERIALIZATION_FAILURE,
    sqlstate_of,
    waited_at_the_guard,
)
from eventsource.stores.interface import AppendResult, EventStore, StoredEvent
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.stores.sessions import ServerChanged, followed
from eventsource.tenant_ids import TenantId, as_uuid, checked

if TYPE_CHECKING:
    from eventsource.events import DomainEvent
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.subscriptions.checkpoints import CheckpointRepository
    from eventsource.subscriptions.delivery import OnError

#: How long an append looks for a target that was decided on but is not open (seconds).
OPENING_PATIENCE = 30.0

#: After this long a router finishes the flip itself: its driver may be dead (seconds).
FINISH_AFTER = 0.5

Isolation = Literal["read_committed", "repeatable_read", "serializable"]

#: What a store answers, and what comes instead of an answer.
_ANY = (asyncpg.PostgresError, ServerChanged, *PASSING)

_MIRRORED = (TenantMigrationState.DUAL_WRITE, TenantMigrationState.CUTOVER_PAUSED)


class TenantStoreRouter(RoutedReads):
    """Routes every call to the store that holds the tenant; is itself an event store.

    Appends are routed by the tenant of their events. Reads take ``tenant_id``; without it the
    stream is looked for in the default store first and its own tenant then says where to read.

    Args:
        default_store: where tenants without a route live.
        routing_repo: the routes.
        stores: every store by id; a route to an id that is missing here is an error.
        route_ttl_seconds: how long a route is believed without being read again.

    Close it with :meth:`close` (or ``async with``) to stop its background tasks early.
    """

    def __init__(
        self,
        default_store: EventStore,
        routing_repo: PostgreSQLRoutingRepository,
        stores: Mapping[str, EventStore],
        *,
        route_ttl_seconds: float = 1.0,
    ) -> None:
        self.stores = dict(stores)
        self.default_store = default_store
        self.default_store_id = next(
            (name for name, store in stores.items() if store is default_store), "default"
        )
        self.stores.setdefault(self.default_store_id, default_store)
        self._routing_repo = routing_repo
        self._routes = RouteCache(
            routing_repo, self.default_store_id, route_ttl_seconds, self._route_changed
        )
        self._arrivals = Arrivals()
        self._dual_write_interceptors: dict[TenantId, DualWriteInterceptor] = {}
        self._paused = PausedTenants()
        self._subscriptions: WeakSet[TenantSubscription] = WeakSet()
        self._background: set[asyncio.Task[None]] = set()
        self._bells = Bells()
        self._readiness = Readiness(self.stores, routing_repo)

    async def __aenter__(self) -> TenantStoreRouter:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and mirroring; the stores and their pools stay open."""
        await self._routes.close()
        await self._bells.close()
        await self._readiness.close()
        # Before the mirrors: one of these may be about to begin another.
        for task in list(self._background):
            task.cancel()
        for interceptor in list(self._dual_write_interceptors.values()):
            await interceptor.close()
        self._dual_write_interceptors.clear()

    def store(self, store_id: str) -> EventStore:
        """The store with this id.

        Raises:
            RoutingError: this process does not know it; it never falls back to another store.
        """
        try:
            return self.stores[store_id]
        except KeyError:
            raise RoutingError(
                f"store {store_id!r} is not known here; add it to the router's `stores`"
                f" (known: {', '.join(sorted(self.stores))})"
            ) from None

    async def route(self, tenant_id: TenantId) -> TenantRouting:
        """Where the tenant lives, as far as this process knows."""
        return await self._routes.get(checked(tenant_id))

    def dual_write_stats(self, tenant_id: TenantId) -> DualWriteStats | None:
        """What this process mirrored for the tenant, or None when it is not in dual-write."""
        interceptor = self._dual_write_interceptors.get(checked(tenant_id))
        return interceptor.stats() if interceptor is not None else None

    async def append_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        events: Sequence[DomainEvent],
        expected_version: int,
    ) -> AppendResult:
        """Append where the tenant lives, following it when it has just moved.

        Raises:
            OptimisticLockError: as the store does.
            WritePausedError: a cutover held the tenant longer than the guard allows.
            RoutingError: the tenant's store is not known here.
        """
        tenant_id = events[0].tenant_id if events else None
        if tenant_id is None:
            return await self.default_store.append_events(
                aggregate_id, aggregate_type, events, expected_version
            )
        began = time.monotonic()
        while True:
            route, store = await self._route_and_store(tenant_id)
            try:
                async with self._paused.turn(route, store) as waited:
                    if waited and await self._routes.get(tenant_id) != route:
                        continue
                    with followed():
                        result = await store.append_events(
                            aggregate_id, aggregate_type, events, expected_version
                        )
            except _ANY as error:
                await self._follow(error, route, began)
                continue
            self._bells.ring(route.store_id, store)
            self._readiness.writes(route, began)
            if self._subscriptions or route.migration_state in _MIRRORED:
                self._mirror(
                    route, Appended(aggregate_id, aggregate_type, result.new_version, len(events))
                )
            return result

    async def transaction(
        self,
        tenant_id: UUID,
        work: Callable[[TenantTransaction], Awaitable[Result]],
        *,
        isolation: Isolation | None = None,
    ) -> Result:
        """Run ``work`` in one transaction at the tenant's home; what it returns.

        Events, outbox and read models that live in the tenant's store are committed together or
        not at all. When the tenant has moved meanwhile, everything is rolled back and ``work`` runs
        again at the new home, as it does after a serialization failure: so it may run several
        times, and what it does outside of the transaction is repeated. The tables it writes to have
        to be in every store.

        Args:
            work: an async function of a ``TenantTransaction``. What it raises rolls back.
            isolation: asyncpg's name of the isolation level; None is the server's default.

        Raises:
            WritePausedError: a cutover held the tenant longer than the guard allows.
            RoutingError: the tenant's store is not known here, or has no transactions.
        """
        began = time.monotonic()
        while True:
            route, store = await self._route_and_store(tenant_id)
            if not isinstance(store, PostgreSQLEventStore):
                raise RoutingError(
                    f"store {route.store_id!r} is of type {type(store).__name__}, which has no"
                    " transactions; make it a PostgreSQLEventStore"
                )
            made = TenantTransaction(as_uuid(route.tenant_id), route.store_id, store)
            try:
                async with self._paused.turn(route, store) as waited:
                    if waited and await self._routes.get(route.tenant_id) != route:
                        continue
                    result, appended = await attempt(made, work, isolation)
            except _ANY as error:
                again = (MOVED, NOT_OPEN_YET, SERIALIZATION_FAILURE)
                if not self._arrivals.doubt(route.store_id, error):
                    if sqlstate_of(error) not in again and not waited_at_the_guard(error):
                        raise
                    await self._follow(error, route, began)
                continue
            for append in appended:
                self._readiness.writes(route)
                self._bells.ring(route.store_id, store)
                self._mirror(route, append)
            return result

    def subscription(
        self,
        name: str,
        checkpoints: CheckpointRepository,
        handler: Callable[[StoredEvent], Awaitable[None]],
        tenants: Collection[UUID] | None = None,
        *,
        batch_size: int = 500,
        poll_interval: float = 0.5,
        on_error: OnError | None = None,
    ) -> TenantSubscription:
        """A subscription over all stores that follows each tenant when it moves, and back.

        Args:
            name, checkpoints: what its checkpoints are called and where they are kept.
            handler: awaited with one stored event at a time; with events of different stores at
                the same time, with those of one tenant never.
            tenants: only these; None is all of them, also those to come.
            batch_size, poll_interval, on_error: see ``Subscription``, per store.
        """
        made = TenantSubscription(
            name, self.stores, self.default_store_id, self._routing_repo, checkpoints, handler,
            tenants, batch_size=batch_size, poll_interval=poll_interval, on_error=on_error,
        )  # fmt: skip
        self._subscriptions.add(made)
        return made

    def _mirror(self, route: TenantRouting, append: Appended) -> None:
        for subscription in self._subscriptions:
            subscription.wake(route.store_id)
        interceptor = self._dual_write_interceptors.get(route.tenant_id)
        if route.migration_state in _MIRRORED and interceptor is not None:
            interceptor.mirror(
                append.aggregate_id, append.aggregate_type, append.last_version, append.events
            )

    async def _follow(self, error: Exception, route: TenantRouting, began: float) -> None:
        """Make the next try a better one, or raise what the application should see."""
        waited, sqlstate = time.monotonic() - began, sqlstate_of(error)
        if self._arrivals.doubt(route.store_id, error):
            return
        if waited_at_the_guard(error):
            raise WritePausedError(route.tenant_id, waited) from error
        if sqlstate == SERIALIZATION_FAILURE:
            # The append was a transaction of its own, so nothing of it is stored: its snapshot is
            # older than what it waited for at the fence, and the next one is not.
            if waited > OPENING_PATIENCE:
                raise error
            await asyncio.sleep(random.uniform(0, 0.01 + waited / 20))
            return
        if sqlstate == MOVED:
            telemetry.waited(route.tenant_id, waited)
            detail = json.loads(getattr(error, "detail", None) or "{}")
            generation = detail.get("generation", 0)
            if generation > route.generation:
                self._routes.adopt(
                    route.tenant_id,
                    detail["target_store_id"],
                    generation,
                    UUID(detail["migration_id"]),
                )
                return
            # The route is as new as the fence and still says this store: wait for the route.
        elif sqlstate != NOT_OPEN_YET:
            raise error
        if waited > OPENING_PATIENCE:
            raise error
        await self._wait_for_the_flip(route.tenant_id, waited)

    def _route_changed(self, route: TenantRouting) -> None:
        """Begin or end mirroring, and saying whether the target can be written to."""
        self._readiness.route_changed(route)
        interceptor = self._dual_write_interceptors.get(route.tenant_id)
        wanted = route.migration_id if route.migration_state in _MIRRORED else None
        if interceptor is not None and interceptor.migration_id != wanted:
            del self._dual_write_interceptors[route.tenant_id]
            self._in_background(interceptor.close())
            interceptor = None
        if wanted is not None and interceptor is None:
            self._in_background(self._begin_mirroring(route, wanted))
        if route.migration_state is TenantMigrationState.CUTOVER_PAUSED:
            self._in_background(warmth.warm_target(self.stores, route))

    async def _begin_mirroring(self, route: TenantRouting, migration_id: UUID) -> None:
        try:
            migration = await PostgreSQLMigrationRepository(self._routing_repo.pool).get(
                migration_id
            )
            source = self.store(migration.source_store_id)
            target = self.store(migration.target_store_id)
        except (MigrationError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return  # the passes carry what this process does not mirror
        if not (
            migration.config.mirror_writes
            and isinstance(source, PostgreSQLEventStore)
            and isinstance(target, PostgreSQLEventStore)
        ):
            return
        mirrors = self._dual_write_interceptors
        if self._routes.knows(route) and route.tenant_id not in mirrors:
            mirrors[route.tenant_id] = DualWriteInterceptor(source, target, migration)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _home(self, tenant_id: TenantId) -> EventStore:
        """Where to read: an append meets the guard and is sent on, a reader has to ask."""
        route, home = await self._route_and_store(tenant_id)
        while self._routes.is_doubtful(route.tenant_id):
            if not await self._ask_where_it_went(route, self.store(route.store_id)):
                self._routes.confirm(route.tenant_id)
                break
            route, home = await self._route_and_store(tenant_id)
        return home

    async def _ask_where_it_went(self, route: TenantRouting, store: EventStore) -> bool:
        """Follow the store's own fence; False when it says nothing newer than the route."""
        moved = None
        if isinstance(store, PostgreSQLEventStore):
            moved = await departures.moved_to(store, route.tenant_id)
        if moved is None or moved.generation <= route.generation:
            return False
        self._routes.adopt(route.tenant_id, moved.store_id, moved.generation, moved.migration_id)
        return True

    async def _route_and_store(self, tenant_id: TenantId) -> tuple[TenantRouting, EventStore]:
        """Where the tenant lives; a store that it moved to is asked once whether it is that one."""
        tenant_id = as_uuid(tenant_id)
        route = await self._routes.get(tenant_id)
        if not self._arrivals.is_due(route):
            return route, self.store(route.store_id)
        began = time.monotonic()
        while True:
            store = self.store(route.store_id)
            if not (isinstance(store, PostgreSQLEventStore) and self._arrivals.is_due(route)):
                return route, store
            try:
                waited = time.monotonic() - began
                answer = await self._arrivals.ask(route, store)
                if answer is Answer.LIVES_HERE:
                    return route, store
                if answer is Answer.HAS_MOVED_ON and await self._ask_where_it_went(route, store):
                    route = await self._routes.get(tenant_id)
                    continue
            except RoutingError:
                newer = await self._routes.refresh(tenant_id)
                if (newer.store_id, newer.target_store_id) == (route.store_id, None) and (
                    newer.migration_id is not None
                ):
                    await flips.finish(self._routing_repo, self.stores, tenant_id)
                    raise
                return newer, self.store(newer.store_id)
            if waited > OPENING_PATIENCE:
                raise not_opened(route)
            await self._wait_for_the_flip(tenant_id, waited)
            route = await self._routes.get(tenant_id)

    async def _wait_for_the_flip(self, tenant_id: TenantId, waited: float) -> None:
        if waited > FINISH_AFTER:
            await flips.finish(self._routing_repo, self.stores, tenant_id)
        await asyncio.sleep(min(0.005 + waited / 10, 0.5))
        await self._routes.refresh(tenant_id)
