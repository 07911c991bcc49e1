"""Giving up on a server that has gone silent although its connection looks alive.

A connection may be half-open: the other end, or something between, takes what is sent and never
answers. The operating system notices when packets are lost, and not when they are swallowed. Nobody
is harmed meanwhile, since the servers free the writers by their own timeouts; but a migration that
waits without end is one that an operator has to find.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

#: A statement of a driver is short; one without an answer for so long is given up (seconds).
STATEMENT_SECONDS = 30.0

#: Those few that read or write as much as a tenant has (seconds).
LONG_STATEMENT_SECONDS = 6 * 3600.0

#: A pass or a verification that has not moved a row for so long is given up (seconds). A slow link
#: carries a chunk in that time, and what was committed stays.
STALLED_SECONDS = 300.0


class StalledError(ConnectionError):
    """Nothing moved any more; what was under way is cancelled and begun again."""


async def unless_stalled(
    work: Awaitable[T], progress: Callable[[], object], patience: Callable[[], float], what: str
) -> T:
    """Await the work as long as ``progress`` gives something new every ``patience()`` seconds.

    Raises:
        StalledError: it did not.
    """
    task = asyncio.ensure_future(work)
    try:
        before = progress()
        while True:
            waited = patience()
            done, _ = await asyncio.wait({task}, timeout=waited)
            if done:
                return task.result()
            # Slowed down meanwhile, it may take longer than it might before.
            if (now := progress()) == before and patience() <= waited:
                raise StalledError(f"{what}: nothing moved for {waited:g} s")
            before = now
    finally:
        # Not waited for: under the fence somebody else waits.
        task.cancel()
