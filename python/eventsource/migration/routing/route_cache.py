"""Where a router believes each tenant lives: a cache that the database keeps fresh."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import asyncpg

from eventsource.connections import brief, connect, connection_parameters
from eventsource.errors import ConnectionDetailsError
from eventsource.migration.errors import RoutingError
from eventsource.migration.failures import PASSING
from eventsource.migration.models import TenantRouting
from eventsource.migration.repositories.routing import (
    CHANNEL,
    PostgreSQLRoutingRepository,
    named_if_missing,
)
from eventsource.migration.states import TenantMigrationState
from eventsource.tenant_ids import TenantId, restored

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventsource.connections import ConnectionParameters

    Connection = asyncpg.Connection[Any]

_log = logging.getLogger("eventsource.router")

LONGEST_BACKOFF = 5.0

#: A route that was not read again for so many times its ``ttl`` is old.
BELIEVED = 3

#: So many routes are read at once. What is done with them holds up whatever else the process does,
#: and a process may know a hundred thousand.
PAGE = 500

#: How long a call waits for an old route to be read again; after that the known one is used.
REFRESH_SECONDS = 0.5

_PASSING = (*PASSING, asyncpg.PostgresError)


class RouteCache:
    """Routes by tenant. Stale ones cost a retry, never an event: the fence decides.

    A background task listens for changes and reads every known route again each ``ttl`` seconds,
    on a connection of its own, so that looking a route up costs no round trip.

    Args:
        repository: the routes in the control database.
        default_store_id: where a tenant without a route lives.
        ttl: seconds after which a route is read again.
        changed: called with every route that is new or different.
    """

    def __init__(
        self,
        repository: PostgreSQLRoutingRepository,
        default_store_id: str,
        ttl: float,
        changed: Callable[[TenantRouting], None],
    ) -> None:
        self._repository = repository
        self._default = default_store_id
        self._ttl = ttl
        self._changed = changed
        self._routes: dict[TenantId, TenantRouting] = {}
        self._read_at: dict[TenantId, float] = {}
        self._not_before = 0.0
        self._unrecorded: set[TenantId] = set()
        self._confirmed_at: dict[TenantId, float] = {}
        self._keeper: asyncio.Task[None] | None = None

    async def get(self, tenant_id: TenantId) -> TenantRouting:
        """The tenant's route; from the database the first time, or when the keeper lags."""
        self._ensure_keeper()
        route = self._routes.get(tenant_id)
        if route is None:
            with named_if_missing():
                return await self.refresh(tenant_id)
        if not self.is_old(tenant_id) or time.monotonic() < self._not_before:
            return route
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                return await self.refresh(tenant_id)
        except _PASSING:
            # The control database is away, or somebody has locked its tables: the old route still
            # works, or the fence says no. It is asked again, but not by every append.
            self._not_before = time.monotonic() + max(self._ttl, REFRESH_SECONDS)
            return route

    def is_old(self, tenant_id: TenantId) -> bool:
        """Whether nothing has been heard of the tenant's route for longer than it is believed."""
        read_at = self._read_at.get(tenant_id)
        return read_at is None or time.monotonic() - read_at >= BELIEVED * self._ttl

    def is_doubtful(self, tenant_id: TenantId) -> bool:
        """Whether a reader should ask a store: the control database is silent, or knows nothing.

        Either it cannot be reached, or its tables were lost or are those of an older backup.
        """
        confirmed = self._confirmed_at.get(tenant_id)
        if confirmed is not None and time.monotonic() - confirmed < BELIEVED * self._ttl:
            return False
        return tenant_id in self._unrecorded or self.is_old(tenant_id)

    def confirm(self, tenant_id: TenantId) -> None:
        """A store was asked: that is believed as long as a route."""
        self._confirmed_at[tenant_id] = time.monotonic()

    def knows(self, route: TenantRouting) -> bool:
        """Whether this is the tenant's route still, for who has awaited something since."""
        return self._routes.get(route.tenant_id) == route

    async def refresh(self, tenant_id: TenantId) -> TenantRouting:
        """Read the tenant's route now."""
        found = await self._repository.get_routing(tenant_id)
        return self._keep(tenant_id, found)

    def adopt(
        self,
        tenant_id: TenantId,
        store_id: str,
        generation: int,
        migration_id: UUID,
    ) -> TenantRouting:
        """Follow what a fence said, if it is newer than what is known.

        Without the migration the store would not be asked whether it is the one that was meant.
        """
        known = self._routes.get(tenant_id)
        if known is not None and known.generation >= generation:
            return known
        route = TenantRouting(
            tenant_id, store_id, TenantMigrationState.NORMAL, None, generation, migration_id
        )
        return self._keep(tenant_id, route)

    async def close(self) -> None:
        """Stop listening."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    def _keep(self, tenant_id: TenantId, found: TenantRouting | None) -> TenantRouting:
        route = found or TenantRouting(
            tenant_id, self._default, TenantMigrationState.NORMAL, None, 0, None
        )
        known = self._routes.get(tenant_id)
        self._read_at[tenant_id] = time.monotonic()
        if known is not None and known.generation > route.generation:
            # The control database has yet to hear what a fence already answered.
            return known
        self._routes[tenant_id] = route
        if found is None:
            self._unrecorded.add(tenant_id)
        else:
            self._unrecorded.discard(tenant_id)
        if known is None or known != route:
            self._changed(route)
        if known is not None:
            _report(known, route)
        return route

    def _ensure_keeper(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(
                self._keep_fresh(), name="eventsource-routes"
            )

    async def _keep_fresh(self) -> None:
        parameters: ConnectionParameters | None = None
        backoff = 0.1
        deaf = False
        while True:
            connection: Connection | None = None
            try:
                if parameters is None and (parameters := await self._described()) is None:
                    return
                connection = await connect(parameters, application_name="eventsource-routes")
                backoff = 0.1
                if deaf:
                    _log.info("changes of routes are heard again")
                deaf = False
                await self._listen(connection)
            except (*_PASSING, RoutingError) as error:
                if not deaf:
                    # Nothing is wrong yet: routes are read when due, and the fence decides.
                    _log.info("changes of routes are not heard for now: %s", brief(error))
                deaf = True
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _described(self) -> ConnectionParameters | None:
        """How to connect; None where the pool cannot say it, and routes are read when due."""
        try:
            return await connection_parameters(cast("asyncpg.Pool[Any]", self._repository.pool))
        except ConnectionDetailsError:
            return None

    async def _listen(self, connection: Connection) -> None:
        news = asyncio.Event()
        announced: set[TenantId] = set()

        def hear(*said: object) -> None:
            announced.add(restored(str(said[-1])))
            news.set()

        def heard() -> list[TenantId]:
            known = [tenant for tenant in announced if tenant in self._routes]
            announced.clear()
            return known

        await connection.add_listener(CHANNEL, hear)
        repository = PostgreSQLRoutingRepository(connection)
        while True:
            tenants = list(self._routes)
            for at in range(0, len(tenants), PAGE):
                # Who moves now does not wait for all that may have moved.
                await self._read(repository, [*heard(), *tenants[at : at + PAGE]])
            due = time.monotonic() + self._ttl
            while time.monotonic() < due:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due - time.monotonic()):
                        await news.wait()
                news.clear()
                await self._read(repository, heard())

    async def _read(self, repository: PostgreSQLRoutingRepository, tenants: list[TenantId]) -> None:
        if tenants:
            found = await repository.get_routings(tenants)
            for tenant in tenants:
                self._keep(tenant, found.get(tenant))


def _report(known: TenantRouting, route: TenantRouting) -> None:
    """One line for a route that changed; the same route read again has none."""
    if known.store_id != route.store_id:
        _log.info(
            "tenant %s lives in store %r now, before in %r (generation %d)",
            route.tenant_id, route.store_id, known.store_id, route.generation,
        )  # fmt: skip
    elif known.migration_state != route.migration_state:
        _log.info(
            "tenant %s in store %r: route %s, was %s",
            route.tenant_id, route.store_id, route.migration_state, known.migration_state,
        )  # fmt: skip
