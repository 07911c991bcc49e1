"""Whether a store is the one that a tenant moved to: its fence was opened by that move.

A route names a store, and each process has an address of its own for that name. An address that
leads to another database accepts appends just the same, and nobody finds them again. So a process
asks once for each tenant and flip, before it uses the route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from eventsource.migration.errors import MigrationError, RoutingError
from eventsource.migration.event_table import of_store
from eventsource.migration.tables import fences
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.models import TenantRouting
    from eventsource.stores.postgresql import PostgreSQLEventStore


class Arrivals:
    """The stores that were found to be the ones that their tenants moved to."""

    def __init__(self) -> None:
        self._found: dict[TenantId, tuple[str, int]] = {}

    def is_due(self, route: TenantRouting) -> bool:
        """Whether the route is one that a move has made, and is used for the first time.

        While a tenant leaves a store, and after that was given up, its route names the store where
        it is as before.
        """
        return (
            route.generation > 0
            and route.migration_id is not None
            and route.target_store_id is None
            and self._found.get(route.tenant_id) != (route.store_id, route.generation)
        )

    async def ask(self, route: TenantRouting, store: PostgreSQLEventStore) -> bool:
        """Look at the store's fence; False while it is closed.

        A repair makes the fence before its triggers: until it is open, the guard may not be there
        to refuse anybody.

        Raises:
            RoutingError: it was not opened by this move, or a later one.
        """
        try:
            fence = await fences.read(await of_store(store), route.tenant_id)
        except (asyncpg.InsufficientPrivilegeError, MigrationError):
            fence = None  # a role that may not look, or not see, is not kept from appending
        except asyncpg.UndefinedTableError:
            raise _another_store(route) from None
        else:
            if fence is None or (
                fence.state in ("open", "moved") and fence.generation < route.generation
            ):
                raise _another_store(route)
            if fence.state in ("closed", "aborting"):
                return False
        self._found[route.tenant_id] = (route.store_id, route.generation)
        return True


def _another_store(route: TenantRouting) -> RoutingError:
    return RoutingError(
        f"store {route.store_id!r} here is not the one that tenant {route.tenant_id} moved to: no"
        " fence in it was opened for the tenant by that move. Correct the address of this store in"
        " the configuration of this process; if it was restored to a moment before the move, let a"
        " driver carry what it lacks (`eventsource-migrate work`)"
    )


def not_opened(route: TenantRouting) -> RoutingError:
    """The error for a store that stayed closed."""
    return RoutingError(
        f"tenant {route.tenant_id} has moved to store {route.store_id!r}, which is not open yet;"
        " let a driver finish the move (`eventsource-migrate work`)"
    )
