"""Whether a store is the one that a tenant moved to: its fence was opened by that move.

A route names a store, and each process has an address of its own for that name. An address that
leads to another database accepts appends just the same, and nobody finds them again. So a process
asks before it uses the route of a flip for the first time. A store may also go back in time, to
before the tenant came: so it is asked again every 30 seconds, for all of its tenants at once,
after a lost connection, and before anything is appended or read over a connection to a server that
was started since.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from eventsource.migration.errors import MigrationError, RoutingError
from eventsource.migration.event_table import of_store
from eventsource.migration.failures import PASSING
from eventsource.migration.tables import fences
from eventsource.sqlstates import sqlstate_of
from eventsource.stores.sessions import ServerChanged
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.models import TenantRouting
    from eventsource.stores.postgresql import PostgreSQLEventStore


#: How long what a store has said is believed (seconds).
BELIEVED_SECONDS = 30.0

#: Classes of errors with which a connection ends.
_LOST = ("08", "57")


#: Of whom, at which store, and for which generation of the route.
Asked: TypeAlias = tuple[TenantId, str, int]


class Answer(Enum):
    """What a store says of a tenant that is routed to it."""

    LIVES_HERE = "lives here"
    IS_CLOSED = "is closed"
    HAS_MOVED_ON = "has moved on"


class Arrivals:
    """The stores that were found to be the ones that their tenants moved to, and when."""

    def __init__(self) -> None:
        self._found: dict[TenantId, tuple[str, int, float]] = {}
        self._asking: dict[Asked, asyncio.Task[Answer]] = {}

    def is_due(self, route: TenantRouting) -> bool:
        """Whether the route is one that a move has made, and its store has not been asked lately.

        While a tenant leaves a store, and after that was given up, its route names the store where
        it is as before.
        """
        if route.generation <= 0 or route.migration_id is None or route.target_store_id is not None:
            return False
        store_id, generation, at = self._found.get(route.tenant_id, ("", 0, 0.0))
        known = (store_id, generation) == (route.store_id, route.generation)
        return not known or time.monotonic() - at > BELIEVED_SECONDS

    def doubt(self, store_id: str, error: Exception) -> bool:
        """After a lost connection the store may be another one, or of an earlier time.

        True where nothing has been done over the connection: then it can be asked at once.
        """
        is_new = isinstance(error, ServerChanged)
        if is_new or isinstance(error, PASSING) or (sqlstate_of(error) or "")[:2] in _LOST:
            for tenant_id, (name, generation, _) in list(self._found.items()):
                if name == store_id:
                    self._found[tenant_id] = name, generation, float("-inf")
            # What is being asked may be answered by the server of before.
            self._asking = {key: each for key, each in self._asking.items() if key[1] != store_id}
        return is_new

    async def ask(self, route: TenantRouting, store: PostgreSQLEventStore) -> Answer:
        """Look at the store's fence, and at those of all others that are due there.

        A repair makes the fence before its triggers: until it is open, the guard may not be there
        to refuse anybody. All writers of a tenant come at the moment when it has moved: one of them
        asks, and the others get the same answer.

        Raises:
            RoutingError: it was not opened by this move, or a later one.
        """
        key = route.tenant_id, route.store_id, route.generation
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(route, store, key))
            asking.add_done_callback(partial(self._answered, key))
        # Who is cancelled takes the answer from nobody.
        return await asyncio.shield(asking)

    def _answered(self, key: Asked, asking: asyncio.Task[Answer]) -> None:
        if self._asking.get(key) is asking:
            del self._asking[key]
        if not asking.cancelled():
            asking.exception()  # those who asked may all be gone

    async def _ask(self, route: TenantRouting, store: PostgreSQLEventStore, key: Asked) -> Answer:
        now = time.monotonic()
        due = [
            tenant_id
            for tenant_id, (name, _, at) in self._found.items()
            if name == route.store_id and now - at > BELIEVED_SECONDS
        ]
        found = {route.tenant_id: (route.store_id, route.generation, now)}
        try:
            table = await of_store(store)
            known = await fences.of_tenants(table, [route.tenant_id, *due])
        except (asyncpg.InsufficientPrivilegeError, MigrationError):
            # A role that may not look, or not see, is not kept from appending.
            self._believe(key, found)
            return Answer.LIVES_HERE
        except asyncpg.UndefinedTableError:
            raise _another_store(route) from None
        fence = known.get(route.tenant_id)
        if fence is None or (
            fence.state in ("open", "moved") and fence.generation < route.generation
        ):
            raise _another_store(route)
        if fence.state in ("closed", "aborting"):
            return Answer.IS_CLOSED
        if fence.state == "moved" and fence.generation > route.generation:
            return Answer.HAS_MOVED_ON
        for tenant_id in due:
            generation = self._found[tenant_id][1]
            other = known.get(tenant_id)
            if other is not None and (other.state, other.generation) == ("open", generation):
                found[tenant_id] = route.store_id, generation, now
        if self._believe(key, found):
            store.appender.sessions.trust()
        return Answer.LIVES_HERE

    def _believe(self, key: Asked, found: dict[TenantId, tuple[str, int, float]]) -> bool:
        """Remember it, unless the store was doubted since it was asked."""
        is_sure = self._asking.get(key) is asyncio.current_task()
        if is_sure:
            self._found.update(found)
        return is_sure


def _another_store(route: TenantRouting) -> RoutingError:
    return RoutingError(
        f"store {route.store_id!r} here is not the one that tenant {route.tenant_id} moved to: no"
        " fence in it was opened for the tenant by that move. Correct the address of this store in"
        " the configuration of this process; if it was restored to a moment before the move, run"
        " `eventsource-migrate repair`, and let a driver carry what it lacks"
        " (`eventsource-migrate work`)"
    )


def not_opened(route: TenantRouting) -> RoutingError:
    """The error for a store that stayed closed."""
    return RoutingError(
        f"tenant {route.tenant_id} has moved to store {route.store_id!r}, which is not open yet;"
        " let a driver finish the move (`eventsource-migrate work`)"
    )
