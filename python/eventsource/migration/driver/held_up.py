"""Who holds up a pass: said in the journal while nothing of it moves.

A table that somebody has locked, at either side, lets a pass stand without a word. Its sessions
wait, and so do not see for whom; others look for them here.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.migration.connections import blockers
from eventsource.migration.connections.driver_connections import close_all, open_connection
from eventsource.migration.connections.session_marks import carriers, data_plane_mark
from eventsource.migration.connections.waits import Wait, beside

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.dataplane import PassSession
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.errors import Blocker

#: How long nothing has moved before somebody is looked for, and how often (seconds).
QUIET_SECONDS = 3.0
LOOK_SECONDS = 1.0


def watched(
    connections: DriverConnections, migration_id: UUID, session: PassSession
) -> AbstractAsyncContextManager[None]:
    """A block in which a pass runs."""
    return beside(_watch(connections, migration_id, session))


async def _watch(connections: DriverConnections, migration_id: UUID, session: PassSession) -> None:
    wait: Wait | None = None
    # On connections of its own: all others are at work.
    opened: dict[str, asyncpg.Connection[Any]] = {}
    before, since = _moved(session), time.monotonic()
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if (now := _moved(session)) != before:
                before, since = now, time.monotonic()
            found: list[Blocker] = []
            if time.monotonic() - since >= QUIET_SECONDS:
                for side, table in (("source", connections.source), ("target", connections.target)):
                    if side not in opened:
                        opened[side] = await open_connection(table.address.parameters)
                    ours = await carriers(opened[side], data_plane_mark(migration_id, side))
                    # Those that wait for one another are no news.
                    seen = await blockers.of_sessions(opened[side], ours)
                    if found := [each for each in seen if each.pid not in ours]:
                        wait = wait or Wait(
                            f"for a lock at the {side} that the copy needs",
                            "it goes on when that is released",
                        )
                        break
            if wait is not None and not found:
                await wait.is_over()
                wait = None
            elif wait is not None:
                await wait.goes_on(_answer(found))
    finally:
        if wait is not None:
            await wait.is_over()
        await close_all(list(opened.values()))


def _answer(found: list[Blocker]) -> Any:
    async def look(_: float) -> list[Blocker]:
        return found

    return look


def _moved(session: PassSession) -> tuple[int, int, int]:
    seen = session.progress()
    return seen.rows, seen.bytes, seen.chunks
