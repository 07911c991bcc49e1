"""The routes that a subscription follows, and the stores that they name.

A store may be another place than the one that a tenant has moved to, or of an earlier time. So it
is asked when a route is new, every 30 seconds, and before anything is read over a connection to a
server that was started since. A control database may have gone back too: a route of a lower
generation than one that was followed says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.migration.event_table import of_store
from eventsource.migration.models import TenantRouting
from eventsource.migration.repositories.routing import named_if_missing
from eventsource.migration.routing.arrival import Arrivals
from eventsource.migration.states import TenantMigrationState
from eventsource.stores.asked import asked
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.stores.sessions import ServerChanged, Sessions
from eventsource.subscriptions.outages import of_a_store

if TYPE_CHECKING:
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.interface import EventStore
    from eventsource.tenant_ids import TenantId


class KnownRoutes:
    """Where each tenant of a subscription lives.

    Args:
        tenants: only these; None is all that have a route.
    """

    def __init__(
        self,
        repository: PostgreSQLRoutingRepository,
        stores: Mapping[str, EventStore],
        default_store_id: str,
        tenants: Collection[UUID] | None,
    ) -> None:
        self._repository = repository
        self._stores = stores
        self._default = default_store_id
        self._tenants = tenants
        self._highest: dict[TenantId, TenantRouting] = {}
        self._arrivals = Arrivals()
        # Of its own: a connection over which a router has asked is not one about which this has.
        self._sessions: defaultdict[str, Sessions] = defaultdict(Sessions)
        self._doubted: set[str] = set()

    async def read(self) -> list[TenantRouting]:
        """The routes whose stores are the ones that are meant.

        Raises:
            RoutingError: a store here is another place than where a tenant has moved to.
        """
        for route in await self._current():
            known = self._highest.get(route.tenant_id)
            if known is None or known.generation <= route.generation:
                self._highest[route.tenant_id] = route
        for store_id, store in self._stores.items():
            if isinstance(store, PostgreSQLEventStore):
                try:
                    await self._ask(store_id, store)
                except Exception as error:
                    # Its own reader waits for it; the other stores go on.
                    if not of_a_store(error):
                        raise
        return list(self._highest.values())

    def asking(self, store_id: str) -> EventStore:
        """A store to read from, which is asked first where its server was started since."""
        store = self._stores[store_id]
        if not isinstance(store, PostgreSQLEventStore):
            return store
        sessions = self._sessions[store_id]

        async def ask() -> None:
            self._doubted.add(store_id)
            await self.confirm(store_id)
            sessions.trust()

        return asked(store, ask, sessions)

    async def confirm(self, store_id: str) -> None:
        """Ask a store that is in doubt since its server was another one, until it has answered.

        Raises:
            RoutingError: it is another place than where a tenant has moved to, or of before that.
        """
        if store_id not in self._doubted:
            return
        store = self._stores[store_id]
        assert isinstance(store, PostgreSQLEventStore)
        self._arrivals.doubt(store_id, ServerChanged())
        await self._ask(store_id, store)
        self._doubted.discard(store_id)

    async def is_hidden(self, store_id: str, tenant_id: UUID) -> bool:
        """Whether the feed of the store leaves events of the tenant out, which come later: one that
        has gone back to before the tenant was opened there is closed until a driver has mended it.
        """
        store = self._stores[store_id]
        if not isinstance(store, PostgreSQLEventStore):
            return False
        table = await of_store(store)
        hidden = table.beside("eventsource_hidden")
        try:
            return bool(
                await table.connection.fetchval(
                    f"select exists (select from {hidden}($1) where tenant = $2)",
                    table.address.table, tenant_id,
                )
            )  # fmt: skip
        except asyncpg.UndefinedFunctionError:
            return False  # as the feed of a store that an older version has made

    async def _ask(self, store_id: str, store: PostgreSQLEventStore) -> None:
        for route in list(self._highest.values()):
            if route.store_id == store_id and self._arrivals.is_due(route):
                await self._arrivals.ask(route, store)

    async def _current(self) -> list[TenantRouting]:
        with named_if_missing():
            if self._tenants is None:
                # Tenants of other kinds of tables are not in any of these stores.
                every = await self._repository.get_all()
                return [route for route in every if isinstance(route.tenant_id, UUID)]
            found = await self._repository.get_routings(list(self._tenants))
        return [found.get(tenant) or self._unrouted(tenant) for tenant in self._tenants]

    def _unrouted(self, tenant_id: UUID) -> TenantRouting:
        return TenantRouting(tenant_id, self._default, TenantMigrationState.NORMAL, None, 0, None)
