"""Where each tenant lives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.errors import StoreSchemaError
from eventsource.migration.errors import RoutingError
from eventsource.migration.models import TenantRouting
from eventsource.migration.repositories import hidden_rows
from eventsource.named_sql import statements
from eventsource.retried import Retried
from eventsource.tenant_ids import TenantId, restored, stored

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "routing.sql")

#: Channel on which every change of a route is announced; the payload is the tenant id.
CHANNEL = "eventsource_routes"


@contextmanager
def named_if_missing() -> Iterator[None]:
    """What an application gets that begins before the control tables are made.

    Raises:
        StoreSchemaError: the table is not there.
    """
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise StoreSchemaError(
            "there is no table tenant_routing in the control database;"
            " `await eventsource.migration.create_schema(pool)` or `eventsource-migrate init` makes"
            " it, or correct the address or the search path of that pool"
        ) from error


class PostgreSQLRoutingRepository:
    """Routes in the control database. A tenant without a row lives in the default store.

    Args:
        pool: an asyncpg pool or connection.
    """

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self._sql = Retried(pool)

    async def get_routing(self, tenant_id: TenantId) -> TenantRouting | None:
        """The tenant's route, or None when it has none.

        Raises:
            RoutingError: row-level security may hide it.
        """
        rows = await self._sql.fetch(f"{_SQL['select']} r.tenant_id = $1", stored(tenant_id))
        return (await self._found(rows, 1)).get(restored(stored(tenant_id)))

    async def get_routings(self, tenant_ids: Sequence[TenantId]) -> dict[TenantId, TenantRouting]:
        """The routes of those tenants that have one, in one round trip.

        Raises:
            RoutingError: row-level security may hide the route of one that was not found.
        """
        rows = await self._sql.fetch(
            f"{_SQL['select']} r.tenant_id = any($1::text[])", [stored(each) for each in tenant_ids]
        )
        return await self._found(rows, len(set(tenant_ids)))

    async def _found(self, rows: Sequence[Any], wanted: int) -> dict[TenantId, TenantRouting]:
        found = {
            restored(row["tenant_id"]): TenantRouting.from_row(row)
            for row in rows
            if row["tenant_id"] is not None
        }
        if (
            rows[0]["active"]
            and len(found) < wanted
            and (problem := await hidden_rows.problem(self._sql, "tenant_routing"))
        ):
            raise RoutingError(problem)
        return found

    async def get_all(self) -> list[TenantRouting]:
        """Every route there is, by tenant.

        Raises:
            RoutingError: row-level security may hide some.
        """
        rows = await self._sql.fetch(f"{_SQL['select']} true order by r.tenant_id")
        # Whatever was found, one more may be hidden.
        return list((await self._found(rows, len(rows) + 1)).values())

    async def set_routing(self, tenant_id: TenantId, store_id: str) -> TenantRouting:
        """Say where a tenant lives that has no events yet or is known to live there.

        It moves no event. Raises RoutingError while a migration holds the route.
        """
        changed = await self._sql.fetch(_SQL["assign"], stored(tenant_id), store_id)
        routing = await self.get_routing(tenant_id)
        if not changed or routing is None:
            raise RoutingError(f"tenant {tenant_id} is migrating; its route cannot be set by hand")
        return routing
