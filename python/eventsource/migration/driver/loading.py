"""Loads the driver, with all that it needs, where something is moved for the first time.

That takes a tenth of a second of processor time. Processes that only ask what is under way do
without, and in an application whose tenants go on writing the event loop does not stand still for
it: a thread loads.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventsource.migration import telemetry

if TYPE_CHECKING:
    from eventsource.migration.driver.driver import Driver

_loaded: list[type[Driver]] = []


async def driver() -> type[Driver]:
    """The class; loaded when this returns, as is the library for traces."""
    return _loaded[0] if _loaded else await asyncio.to_thread(_load)


def _load() -> type[Driver]:
    from eventsource.migration.driver.driver import Driver

    telemetry.api()
    _loaded[:] = [Driver]
    return Driver
