"""How many events a tenant has: of a small one known at once, of others counted beside the copy.

To count takes as long as to read an index of the tenant: a sixth of a second for a million events,
and minutes for a thousand million. Nothing but what is shown depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from eventsource.migration.connections.driver_connections import close_all

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.driver.heartbeat import Heartbeat

_log = logging.getLogger("eventsource.migration.driver")

#: Up to so many events nobody notices that they are counted first.
AT_ONCE = 100_000


@contextlib.asynccontextmanager
async def beside(
    way: Any, connections: DriverConnections, passes: Any, heartbeat: Heartbeat
) -> AsyncIterator[None]:
    """While the block copies: count, unless that was done, and let the heartbeat publish it."""
    if heartbeat.migration.is_counted:
        yield
        return
    counting = asyncio.create_task(_count(way, connections, passes, heartbeat))
    try:
        yield
    finally:
        counting.cancel()
        await asyncio.wait([counting])


async def _count(
    way: Any, connections: DriverConnections, passes: Any, heartbeat: Heartbeat
) -> None:
    endpoints = connections.endpoints
    try:
        source = await endpoints.open_table(endpoints.source, endpoints.source_layout)
        try:
            heartbeat.counted = await way.count(source, passes)
        finally:
            await close_all([source.connection])
    except Exception as error:
        # The copy goes on without, and its end says how many there were.
        _log.debug("migration %s was not counted", heartbeat.migration.id, exc_info=error)
