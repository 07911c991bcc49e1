"""The longest append that a router has seen at a cutover, which it reports afterwards.

The driver knows how long the fence was held, and how long sessions waited at it. An application
waits for more than that: the answer of the fence, the way to the target, a connection there, and
the append itself. Only the process that appends can measure it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from eventsource.migration.failures import PASSING
from eventsource.migration.repositories.router_reports import RouterReports
from eventsource.migration.states import TenantMigrationState

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.models import TenantRouting
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.tenant_ids import TenantId

#: How long a router goes on measuring once it knows that the tenant has moved (seconds): an append
#: that met the fence may still be on its way.
SETTLED = 1.0

#: How long a router that is closed tries to report (seconds).
CLOSING = 0.5


@dataclass(slots=True)
class _Watch:
    """One cutover; ``longest`` is in seconds, 0 where no append ended during it."""

    migration_id: UUID
    longest: float = 0.0
    has_moved: bool = False


class LongestAppends:
    """Of one router: from the moment at which a fence is raised until its tenant has settled."""

    def __init__(self, router: str, repository: PostgreSQLRoutingRepository) -> None:
        self._router = router
        self._reports = RouterReports(repository.pool)
        self._homes: dict[TenantId, str] = {}
        self._watched: dict[TenantId, _Watch] = {}
        self._reporting: dict[asyncio.Task[None], _Watch] = {}

    def appended(self, tenant_id: TenantId, began: float) -> None:
        """An append was stored; ``began`` is when it was called, of ``time.monotonic``."""
        watch = self._watched.get(tenant_id)
        if watch is not None:
            watch.longest = max(watch.longest, time.monotonic() - began)

    def route_changed(self, route: TenantRouting) -> None:
        """Begin or end to measure, for a tenant that the router appends for."""
        before = self._homes.get(route.tenant_id, route.store_id)
        self._homes[route.tenant_id] = route.store_id
        if route.migration_id is None:
            self._watched.pop(route.tenant_id, None)
            return
        watch = self._watched.get(route.tenant_id)
        if watch is None or watch.migration_id != route.migration_id:
            watch = _Watch(route.migration_id)
        if before != route.store_id:
            # Also where nobody has heard of the fence, and an append has met it.
            self._watched[route.tenant_id] = watch
            self._report_soon(route.tenant_id, watch)
        elif route.migration_state is TenantMigrationState.CUTOVER_PAUSED:
            self._watched[route.tenant_id] = watch
        elif not watch.has_moved:
            # The fence is open again: a rehearsal, or a cutover that was refused.
            self._watched.pop(route.tenant_id, None)

    async def close(self) -> None:
        """Report what is known by now; nothing is measured after that."""
        left = list(self._reporting.values())
        tasks = list(self._reporting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watched.clear()
        with contextlib.suppress(*PASSING, asyncpg.PostgresError):
            async with asyncio.timeout(CLOSING):
                for watch in left:
                    await self._report(watch)

    def _report_soon(self, tenant_id: TenantId, watch: _Watch) -> None:
        watch.has_moved = True
        task = asyncio.get_running_loop().create_task(
            self._settle(tenant_id, watch), name="eventsource-longest-append"
        )
        self._reporting[task] = watch
        task.add_done_callback(lambda done: self._reporting.pop(done, None))

    async def _settle(self, tenant_id: TenantId, watch: _Watch) -> None:
        await asyncio.sleep(SETTLED)
        # A return may follow at once, and is measured by itself.
        if self._watched.get(tenant_id) is watch:
            del self._watched[tenant_id]
        # As with what a router says before a cutover: where it cannot, nobody hears of it.
        with contextlib.suppress(*PASSING, asyncpg.PostgresError):
            await self._report(watch)

    async def _report(self, watch: _Watch) -> None:
        if watch.longest:
            await self._reports.longest_append(watch.migration_id, self._router, watch.longest)
