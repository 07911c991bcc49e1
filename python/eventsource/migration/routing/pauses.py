"""Who may wait at the fence of a paused tenant: a share of a process's connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventsource.migration.states import TenantMigrationState
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from eventsource.migration.models import TenantRouting
    from eventsource.stores.interface import EventStore

#: One paused tenant may have so much of a pool; several together twice as much. The rest is for the
#: tenants that nobody has paused.
SHARE, SHARE_OF_ALL = 0.25, 0.5


@dataclass(slots=True)
class _Turns:
    """Those of one tenant; ``users`` counts who has one or waits for one."""

    semaphore: asyncio.Semaphore
    users: int = 0


class _AtOnce(AbstractAsyncContextManager[bool, bool | None]):
    """No turn is needed. Every append of every tenant passes here, so it is made once."""

    async def __aenter__(self) -> bool:
        return False

    async def __aexit__(self, *exc: object) -> None:
        return None


_AT_ONCE = _AtOnce()


@dataclass(slots=True)
class PausedTenants:
    """Turns for the appends of tenants whose cutover is under way.

    Such an append waits at the fence inside the server, and its connection with it. Without a limit
    forty of them take every connection of the pool, and all other tenants of the process wait too.
    """

    _tenants: dict[object, _Turns] = field(default_factory=dict)
    _stores: dict[object, _Turns] = field(default_factory=dict)

    def turn(
        self, route: TenantRouting, store: EventStore
    ) -> AbstractAsyncContextManager[bool, bool | None]:
        """Wait for a turn if the tenant is paused. Gives whether that took time: the route may be
        another one by now."""
        if route.migration_state is TenantMigrationState.CUTOVER_PAUSED and isinstance(
            store, PostgreSQLEventStore
        ):
            return self._turn(route, store)
        return _AT_ONCE

    @asynccontextmanager
    async def _turn(self, route: TenantRouting, store: PostgreSQLEventStore) -> AsyncIterator[bool]:
        size = store.pool.get_max_size()
        async with (
            _held(self._tenants, route.tenant_id, int(size * SHARE)) as waited,
            _held(self._stores, id(store), int(size * SHARE_OF_ALL)) as waited_too,
        ):
            yield waited or waited_too


@asynccontextmanager
async def _held(turns: dict[object, _Turns], key: object, limit: int) -> AsyncIterator[bool]:
    mine = turns.setdefault(key, _Turns(asyncio.Semaphore(max(1, limit))))
    mine.users += 1
    try:
        waits = mine.semaphore.locked()
        async with mine.semaphore:
            yield waits
    finally:
        mine.users -= 1
        if mine.users == 0:
            turns.pop(key, None)
