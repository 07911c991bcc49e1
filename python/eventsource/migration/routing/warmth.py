"""Connections that are ready at the target when all writers of a tenant come at once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import asyncpg

from eventsource.migration.connections import room
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from eventsource.migration.models import TenantRouting
    from eventsource.stores.interface import EventStore

#: What a router may take of the connections that the target's server has left.
WARM_SHARE = 0.25


async def warm_target(stores: Mapping[str, EventStore], route: TenantRouting) -> None:
    """Open as many connections at the target as the source has, right before the cutover.

    Only a share of what the server has left: other processes do the same.
    """
    source, target = stores.get(route.store_id), stores.get(route.target_store_id or "")
    if isinstance(source, PostgreSQLEventStore) and isinstance(target, PostgreSQLEventStore):
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            free = (await room.of_server(target.pool)).free
            await target.warm_up(min(source.pool.get_size(), int(free * WARM_SHARE)))
