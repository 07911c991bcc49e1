"""The routing table of another library, which follows the routes of the control database.

Marten reads a tenant's connection string from a table, Ecotone from a map: a statement that is
declared once rolls forward with each route, in whatever database that table is. It is run with the
route's row locked, so that an older route never overwrites a newer one, and what it was run for is
written down afterwards: a process that dies in between leaves it to the next, so the statement has
to be one that may be repeated.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.connections import ConnectionParameters, connect, redact, transaction
from eventsource.counts import counted
from eventsource.migration.failures import PASSING
from eventsource.named_sql import statements
from eventsource.said import Said
from eventsource.tenant_ids import TenantId, restored, stored

if TYPE_CHECKING:
    from eventsource.connections import Executor, Secret

_log = logging.getLogger("eventsource.migration.route_hook")

_SQL = statements("eventsource.migration.repositories.sql", "route_hooks.sql")

_NAME = re.compile(r"\{(tenant|store|value|generation)\}")

#: What the client says of a parameter that is of another type.
_UNSENT = re.compile(r"invalid input for query argument \$(\d+)")

#: How long the hook's database may take to run the statement (seconds): the route is locked.
STATEMENT_SECONDS = 5.0

#: How many tenants are brought up to date in one go.
AT_A_TIME = 100


#: All routes are compared so often (seconds); in between those alone that have changed lately. That
#: is longer ago than any transaction of ours takes: a route has the time at which that began.
WHOLE_SECONDS, LATELY_SECONDS = 300.0, 900.0


@dataclass(frozen=True, slots=True)
class PendingRoute:
    """A route that the other routing table does not have yet; ``error`` says why, once tried."""

    tenant_id: TenantId
    store_id: str
    generation: int
    error: str | None


@dataclass(frozen=True, slots=True)
class LateRoute:
    """A tenant's route that the other routing table does not have yet.

    Attributes:
        since: when the route has changed.
        error: why it could not be written there; None where nobody has tried.
        tried_at: when that was.
    """

    since: datetime
    error: str | None
    tried_at: datetime | None


async def late(control: Executor, tenant_id: TenantId) -> LateRoute | None:
    """Whether the statement for the tenant's route is still to be run; None when it is not.

    Without a hook it is to be run for every route, which nobody waits for.
    """
    row = await control.fetchrow(_SQL["pending_of"], stored(tenant_id))
    return None if row is None else LateRoute(*row)


@dataclass(frozen=True, slots=True)
class RouteHook:
    """A statement that is run for each route that has changed.

    Attributes:
        dsn: of the database with the other routing table.
        sql: one statement, which may be repeated. ``{tenant}``, ``{store}``, ``{value}`` (what
            ``values`` has for that store) and ``{generation}`` (of the route, a bigint) in it are
            parameters.
        values: by store: what stands for it in the other routing table, such as a connection
            string; kept out of every message.
    """

    dsn: Secret = field(repr=False)
    sql: str
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    said: Said = field(init=False, default_factory=lambda: Said(_log), repr=False, compare=False)

    async def roll_forward(self, control: Executor, *, lately: bool = False) -> list[PendingRoute]:
        """Run the statement for every route that it was not run for yet; those that are left.

        Args:
            lately: of those that have changed lately, and those that were tried in vain.
        """

        async def pending() -> list[Any]:
            if lately:
                return await control.fetch(_SQL["pending_lately"], AT_A_TIME, LATELY_SECONDS)
            return await control.fetch(_SQL["pending"], AT_A_TIME)

        rows = await pending()
        if rows:
            await self._bring_up_to_date(control, [row["tenant_id"] for row in rows])
            rows = await pending()
        return [PendingRoute(restored(row["tenant_id"]), *list(row)[1:]) for row in rows]

    async def _bring_up_to_date(self, control: Executor, tenants: list[str]) -> None:
        try:
            async with asyncio.timeout(STATEMENT_SECONDS):
                connection = await connect(
                    ConnectionParameters(self.dsn), application_name="eventsource-route-hook",
                    command_timeout=STATEMENT_SECONDS,
                )  # fmt: skip
        except (*PASSING, asyncpg.PostgresError) as error:
            await self._failed(control, tenants, error, about=None)
            return
        self.said.over(None)
        try:
            for tenant in tenants:
                try:
                    await self._one(control, connection, tenant)
                    self.said.over(tenant)
                except (*PASSING, asyncpg.PostgresError, asyncpg.DataError) as error:
                    await self._failed(control, [tenant], error, about=tenant)
        finally:
            connection.terminate()

    async def _one(
        self, control: Executor, connection: asyncpg.Connection[Any], tenant: str
    ) -> None:
        async with transaction(control) as locked:
            route = await locked.fetchrow(_SQL["lock"], tenant)
            if route is None:
                return
            given = {
                "tenant": tenant,
                "store": route["store_id"],
                "value": self.values.get(route["store_id"]),
                "generation": route["generation"],
            }
            sql, used = self._numbered()
            await connection.fetch(sql, *(given[each] for each in used))
            await locked.execute(_SQL["done"], tenant, route["generation"])

    def _numbered(self) -> tuple[str, list[str]]:
        """The statement with parameters of the server, and the names that stand for them."""
        used = list(dict.fromkeys(_NAME.findall(self.sql)))
        return _NAME.sub(lambda found: f"${used.index(found[1]) + 1}", self.sql), used

    async def _failed(
        self, control: Executor, tenants: list[str], error: Exception, about: str | None
    ) -> None:
        reason = self._reason(error)
        waits = f"the route hook waits for {counted(len(tenants), 'route')}"
        self.said.warn(about, f"{waits}: {type(error).__name__}: {reason}")
        await control.execute(_SQL["failed"], tenants, reason)

    def _reason(self, error: Exception) -> str:
        """What has failed, without a piece of the values: the client quotes what it cannot send
        and cuts it, and DETAIL cuts the columns of a row.
        """
        server = isinstance(error, asyncpg.PostgresError) and error.args
        text = str(error.args[0]) if server else str(error)
        if unsent := _UNSENT.match(text):
            _, used = self._numbered()
            return f"{{{used[int(unsent[1]) - 1]}}} is not of the type that the statement takes"
        for value in filter(None, self.values.values()):
            text = text.replace(value, "***")
        return " ".join(redact(text).split()).rstrip(".") or type(error).__name__
