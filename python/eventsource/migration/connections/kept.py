"""Sessions of a driver that are kept for a moment, for whatever comes next in this process.

A small move used to spend most of its time on logging in: its preflight, its driver and the trial
of its way back each opened sessions to the same databases, one after the other. A session is kept
only where its work has ended well, and is as new when it is lent again: without locks, settings and
temporary tables of its last user.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

    from eventsource.connections import ConnectionParameters
    from eventsource.dataplane import KeptSessions as DataPlaneSessions

    Connection = asyncpg.Connection[Any]

#: How long an idle session is kept (seconds): other users of the server want it back.
KEPT_SECONDS = 1.0

#: How many are kept for one address: what a driver has at one store.
AT_MOST = 3

#: How long it holds that the sessions of an address are nobody else's (seconds): a pooler does not
#: change its mode while sessions through it are kept.
ALONE_SECONDS = 10.0

#: A server that takes longer has other worries than this (seconds).
_PATIENCE = 1.0

# What DISCARD ALL does besides, but for the prepared statements, which the client knows. With the
# settings of the next user, in one message.
_AS_NEW = """
reset role;
discard temp;
discard sequences;
"""


class KeptSessions:
    """Of one process, for its coordinator."""

    def __init__(self) -> None:
        self._free: defaultdict[ConnectionParameters, list[Connection]] = defaultdict(list)
        self._expiring: dict[Connection, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._alone: dict[ConnectionParameters, float] = {}
        self._is_closed = False
        self._data_plane: DataPlaneSessions | None = None

    @property
    def data_plane(self) -> DataPlaneSessions:
        """Where the data plane keeps its own."""
        if self._data_plane is None:
            # With the first that drives: most processes never load the data plane.
            from eventsource.dataplane import KeptSessions as DataPlaneSessions

            self._data_plane = DataPlaneSessions(KEPT_SECONDS)
        return self._data_plane

    async def take(self, parameters: ConnectionParameters, settings: str) -> Connection | None:
        """A session that still answers, with these settings; None when a new one is needed."""
        free = self._free[parameters]
        while free:
            connection = free.pop()
            self._expiring.pop(connection).cancel()
            try:
                async with asyncio.timeout(_PATIENCE):
                    await connection.execute(_AS_NEW + settings)
                return connection
            except BaseException as error:
                connection.terminate()
                if not isinstance(error, Exception):
                    raise
        return None

    def found_alone(self, parameters: ConnectionParameters) -> None:
        """Remember that no session of the address serves anybody else while it is idle."""
        self._alone[parameters] = time.monotonic()

    def were_alone(self, parameters: ConnectionParameters) -> bool:
        """Whether that was found a moment ago."""
        return time.monotonic() - self._alone.get(parameters, float("-inf")) < ALONE_SECONDS

    async def give_back(self, parameters: ConnectionParameters, connection: Connection) -> None:
        """Keep it for a moment, or close it."""
        try:
            # Looked at again: others may have given theirs back, or closed all, meanwhile.
            is_kept = (
                self._has_room(parameters)
                and await _is_free(connection)
                and self._has_room(parameters)
            )
        except BaseException:
            connection.terminate()
            raise
        if not is_kept:
            await close_briefly(connection)
            return
        self._free[parameters].append(connection)
        self._expiring[connection] = asyncio.get_running_loop().call_later(
            KEPT_SECONDS, self._expire, parameters, connection
        )

    def _has_room(self, parameters: ConnectionParameters) -> bool:
        return not self._is_closed and len(self._free[parameters]) < AT_MOST

    def _expire(self, parameters: ConnectionParameters, connection: Connection) -> None:
        self._free[parameters].remove(connection)
        del self._expiring[connection]
        task = asyncio.get_running_loop().create_task(close_briefly(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all that are kept, and keep none from now on."""
        self._is_closed = True
        kept = [each for free in self._free.values() for each in free]
        for handle in self._expiring.values():
            handle.cancel()
        self._expiring.clear()
        # The lists themselves: one may be looked through at this moment.
        for free in self._free.values():
            free.clear()
        await asyncio.gather(*(close_briefly(each) for each in kept), *self._closing)
        if self._data_plane is not None:
            await self._data_plane.close()


async def _is_free(connection: Connection) -> bool:
    if connection.is_closed() or connection.is_in_transaction():
        return False
    try:
        async with asyncio.timeout(_PATIENCE):
            # The client, too, has to forget what was listened to: it asks the server once for each
            # channel, and the next user would hear nothing.
            await connection.reset()
    except Exception:
        return False
    return True


async def close_briefly(connection: Connection) -> None:
    """Politely but briefly; a server that does not answer is left to its own timeouts."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_PATIENCE):
            await connection.close()
    connection.terminate()
