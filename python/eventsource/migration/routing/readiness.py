"""A router says whether it could write where a tenant is about to live.

While a tenant is on its way, each router that has appended for it tries the target every few
seconds: an append of no events, over the pool that it would use. A role without the right to
insert, a host that cannot be reached, or an address that leads to another database is known before
the cutover then, and not by the first append after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

import asyncpg

from eventsource.connections import brief
from eventsource.errors import StoreSchemaError
from eventsource.migration.event_table import of_store
from eventsource.migration.failures import PASSING
from eventsource.migration.repositories.router_reports import INTERVAL, RouterReports
from eventsource.migration.routing.longest import LongestAppends
from eventsource.migration.states import TenantMigrationState
from eventsource.migration.tables import fences
from eventsource.sqlstates import NOT_PERMITTED, sqlstate_of
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import TenantRouting
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.interface import EventStore
    from eventsource.tenant_ids import TenantId

#: How long the target may take to answer (seconds).
PATIENCE = 3.0

_FENCED = (TenantMigrationState.DUAL_WRITE, TenantMigrationState.CUTOVER_PAUSED)
_numbers = itertools.count(1)


class Readiness:
    """What a router has to say, and the task that says it while there is something to say."""

    def __init__(
        self, stores: Mapping[str, EventStore], repository: PostgreSQLRoutingRepository
    ) -> None:
        self._stores = stores
        self._repository = repository
        self._under_way: dict[TenantId, TenantRouting] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._number = next(_numbers)
        #: The tenants that this router has appended for.
        self._writers: set[TenantId] = set()
        self._longest = LongestAppends(self.name, repository)

    @property
    def name(self) -> str:
        """Of the router, as an operator finds it."""
        number = f" router {self._number}" if self._number > 1 else ""
        return f"{socket.gethostname()} pid {os.getpid()}{number}"

    def writes(self, route: TenantRouting, began: float | None = None) -> None:
        """The router has appended for the tenant.

        Args:
            began: when it was called (of ``time.monotonic``), for a call that did nothing else.
        """
        if route.tenant_id not in self._writers:
            self._writers.add(route.tenant_id)
            self.route_changed(route)
        if began is not None:
            self._longest.appended(route.tenant_id, began)

    def route_changed(self, route: TenantRouting) -> None:
        """Begin to report, or end it."""
        if route.tenant_id not in self._writers:
            return
        self._longest.route_changed(route)
        if route.migration_id is None or route.target_store_id is None:
            self._under_way.pop(route.tenant_id, None)
            return
        self._under_way[route.tenant_id] = route
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._report(), name="eventsource-readiness"
            )

    async def close(self) -> None:
        """Say nothing more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._longest.close()

    async def _report(self) -> None:
        reports = RouterReports(self._repository.pool)
        while self._under_way:
            self._news.clear()
            for route in list(self._under_way.values()):
                # Nobody hears of it: the table is not there yet, the role may not write to it, or
                # the control database is away. The cutover does not wait for this router then.
                with contextlib.suppress(*PASSING, asyncpg.PostgresError):
                    await self._report_of(route, reports)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._news.wait()

    async def _report_of(self, route: TenantRouting, reports: RouterReports) -> None:
        assert route.migration_id is not None
        target = self._stores.get(route.target_store_id or "")
        source = self._stores.get(route.store_id)
        sessions = source.pool.get_size() if isinstance(source, PostgreSQLEventStore) else 0
        if target is None:
            known = ", ".join(sorted(self._stores))
            reason = f"store {route.target_store_id!r} is not in its `stores` (known: {known})"
            await reports.report(route.migration_id, self.name, reason, sessions)
        elif isinstance(target, PostgreSQLEventStore) and not _is_busy(target):
            why_not = await _why_not(target, route)
            await reports.report(route.migration_id, self.name, why_not, sessions)


def _is_busy(target: PostgreSQLEventStore) -> bool:
    """Whether all of its connections are lent: those that have them can write there."""
    pool = target.pool
    return pool.get_size() >= pool.get_max_size() and pool.get_idle_size() == 0


async def _why_not(target: PostgreSQLEventStore, route: TenantRouting) -> str | None:
    try:
        async with asyncio.timeout(PATIENCE):
            table = await of_store(target)
            async with target.pool.acquire() as connection:
                await target.appender.warm(connection)
            return await _is_another(table, route)
    except TimeoutError:
        return f"store {route.target_store_id!r} has not answered within {PATIENCE:g} s"
    except StoreSchemaError as error:
        return f"store {route.target_store_id!r}: {error}"
    except (*PASSING, asyncpg.PostgresError) as error:
        grant = "; grant it to the role of this process"
        mend = grant if sqlstate_of(error) == NOT_PERMITTED else ""
        return f"store {route.target_store_id!r}: {brief(error)}{mend}"


async def _is_another(table: AnyTable, route: TenantRouting) -> str | None:
    """Whether the address leads to another place than the one that the driver copies to."""
    if route.migration_state not in _FENCED or route.migration_id is None:
        return None
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        try:
            fence = await fences.of_migration(table, route.migration_id, "target")
        except asyncpg.UndefinedTableError:
            fence = None
        if fence is None:
            return (
                f"store {route.target_store_id!r} is another database for it than for the driver:"
                " correct the address in its configuration"
            )
    return None
