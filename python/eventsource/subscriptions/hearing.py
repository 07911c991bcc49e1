"""News of appends that other processes made: a subscription looks at once and not when it is due.

Routers announce what they have appended, if anybody listens. Polling stays: a writer without a
router announces nothing, and a pooler that lends out sessions passes no notification on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import asyncpg

from eventsource.connections import connect
from eventsource.errors import EventSourceError
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from eventsource.stores.interface import EventStore

#: The payload is the event table, as in `topic_of`.
CHANNEL = "eventsource_appended"

#: How a session that listens is named: a router looks for one before it announces anything.
APPLICATION = "eventsource-hears-appends"

#: Between two attempts to listen (seconds).
AGAIN_SECONDS = 2.0

_PASSING = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, EventSourceError,
            asyncpg.InternalClientError)  # fmt: skip


async def topic_of(store: PostgreSQLEventStore) -> str:
    """The store's table, as announcements name it."""
    return f"{await store.resolve_schema()}.{store.table_name}"


@contextlib.asynccontextmanager
async def hearing(store: EventStore, wake: Callable[[], None]) -> AsyncIterator[None]:
    """Within the block ``wake`` is called when somebody has appended to a PostgreSQL store."""
    if not isinstance(store, PostgreSQLEventStore):
        yield
        return
    listening = asyncio.create_task(_listen(store, wake), name="eventsource-hears-appends")
    try:
        yield
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def _listen(store: PostgreSQLEventStore, wake: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(*_PASSING):
            await _listen_once(store, wake)
        await asyncio.sleep(AGAIN_SECONDS)


async def _listen_once(store: PostgreSQLEventStore, wake: Callable[[], None]) -> None:
    topic = await topic_of(store)
    parameters = (await store.address()).parameters
    connection = await connect(parameters, application_name=APPLICATION)
    try:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())

        def heard(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if payload == topic:
                wake()

        await connection.add_listener(CHANNEL, heard)
        wake()  # what was appended before is not heard
        await lost.wait()
    finally:
        connection.terminate()
