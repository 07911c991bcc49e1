"""What runs beside the requests: projection and sender of mails, each in one process only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from eventsource.stores.interface import StoredEvent
from examples.orders.events import OrderPlaced
from examples.orders.stores import AnyPool, Stores

_log = logging.getLogger("orders")

#: Advisory locks of the read models' database: who holds one does that work.
PROJECTION, OUTBOX = 1, 2

#: Between two attempts to become the one that works (seconds).
AGAIN_SECONDS = 0.5

#: Between two looks at an outbox that was empty (seconds).
LOOK_SECONDS = 0.1

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What asyncpg says when a connection is lost at an awkward moment.
    asyncpg.InternalClientError,
)


async def alone(read: AnyPool, lock: int, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work while no other process does, without end.

    The lock lies on a connection: when that is lost, as in a restart of the database, the work is
    ended, and whichever process gets the lock next goes on.
    """
    while True:
        try:
            async with read.acquire() as connection:
                if await connection.fetchval("select pg_try_advisory_lock($1)", lock):
                    await _until_lost(connection, work)
        except _AWAY as error:
            _log.warning("work %s waits: %s", lock, type(error).__name__)
        await asyncio.sleep(AGAIN_SECONDS)


async def _until_lost(
    connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
    work: Callable[[], Awaitable[None]],
) -> None:
    working = asyncio.ensure_future(work())
    try:
        while not working.done():
            await asyncio.wait([working], timeout=1.0)
            await connection.execute("select 1")
        working.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def project(stores: Stores) -> None:
    """Keep the revenue up to date. A router's subscription follows each tenant by itself.

    An event comes at least once. It counts once, because its id is the key.
    """

    async def handle(stored: StoredEvent) -> None:
        event = stored.event
        if isinstance(event, OrderPlaced):
            await stores.read.execute(
                "insert into revenue (event_id, tenant_id, amount) values ($1, $2, $3)"
                " on conflict do nothing",
                event.event_id, event.tenant_id, event.amount,
            )  # fmt: skip

    subscription = stores.router.subscription("Revenue", stores.checkpoints, handle)
    await subscription.run()


async def send_mails(stores: Stores) -> None:
    """Send what lies in the outboxes. Rows stay where they were written, so every store is read."""
    while True:
        sent = 0
        for store in stores.by_id.values():
            try:
                sent += await _send_some(stores, store.pool)
            except _AWAY as error:
                # One store that is away does not keep the mails of the others.
                _log.warning("an outbox waits: %s", type(error).__name__)
        if not sent:
            await asyncio.sleep(LOOK_SECONDS)


async def _send_some(stores: Stores, pool: AnyPool) -> int:
    rows = await pool.fetch(
        "select event_id, tenant_id, body from outbox where sent_at is null limit 100"
    )
    for row in rows:
        # Stands for a mail server that knows the key of what it was given before.
        await stores.read.execute(
            "insert into mails (event_id, tenant_id, body) values ($1, $2, $3)"
            " on conflict do nothing",
            row["event_id"], row["tenant_id"], row["body"],
        )  # fmt: skip
        await pool.execute("update outbox set sent_at = now() where event_id = $1", row["event_id"])
    return len(rows)
