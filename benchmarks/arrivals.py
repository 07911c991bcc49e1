"""When events that an application commits at the source are at the target.

Asked of the target's table, for each event by its id and for a large transaction by its positions,
so that it means the same for the product and for its peers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import md5
from uuid import UUID, uuid4

import asyncpg

from benchmarks.processors import used_by
from benchmarks.workload import EVENTS_PER_STREAM, FILLER, TENANT, right

LOOK_SECONDS, LONGEST_SECONDS = 0.01, 300.0

# Ids that are known beforehand and as random as any; streams as in workload A.
_LARGE = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", actor_id, payload, metadata)
select md5($1 || n)::uuid, md5($1 || 'stream' || n % greatest($2 / {per_stream}, 1))::uuid, 'Order',
       'OrderLineAdded', '{tenant}', n / greatest($2 / {per_stream}, 1) + 1, now(), $1,
       jsonb_build_object('line', n, 'sku', md5(n::text), 'note', repeat(md5(n::text), {filler})),
       jsonb_build_object('trace', md5((n * 7)::text))
from generate_series(0, $2::bigint - 1) n
"""

_ONE = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", actor_id, payload, metadata)
values ($1, $1, 'Order', 'OrderPlaced', $2, 1, now(), 'after', '{}', '{}')
"""


@dataclass(frozen=True, slots=True)
class Large:
    """One committed transaction of the tenant; times are of the monotonic clock.

    ``processor_seconds`` are those of the session that wrote it, at the server.
    """

    name: str
    events: int
    first: int
    seconds: float
    committed_at: float
    processor_seconds: float

    @property
    def last(self) -> UUID:
        """The id of its last event."""
        return UUID(md5(f"{self.name}{self.events - 1}".encode()).hexdigest())


async def write_large(source: asyncpg.Connection, events: int) -> Large:
    """``events`` events by one ``INSERT … SELECT`` at the source."""
    name = f"large-{uuid4().hex[:8]}"
    sql = _LARGE.format(per_stream=EVENTS_PER_STREAM, filler=FILLER // 32, tenant=TENANT)
    session = [source.get_server_pid()]
    used, began = used_by(session), time.monotonic()
    await source.execute(sql, name, events)
    committed = time.monotonic()
    used = used_by(session) - used
    first = await source.fetchval(
        "select min(global_position) from events where tenant_id = $1 and actor_id = $2",
        TENANT, name,
    )  # fmt: skip
    return Large(name, events, first, committed - began, committed, used)


async def write_one(source: asyncpg.Connection) -> UUID:
    """One event, committed; its id."""
    event = uuid4()
    await source.execute(_ONE, event, TENANT)
    return event


@dataclass(slots=True)
class Target:
    """A target's table, and by how much positions are higher there than at the source."""

    connection: asyncpg.Connection
    offset: int

    async def has_all(self, large: Large) -> float:
        """Wait until a transaction is there; seconds from its commit to that moment.

        Its last event is looked for until it is there, and then all are counted: counting again and
        again would be work for the target.
        """
        until = large.committed_at + LONGEST_SECONDS
        while True:
            seen = time.monotonic()
            if await self._has(large.last) and await self._count(large) == large.events:
                return seen - large.committed_at
            right(seen < until, f"not all of {large.events:,} events are at the target")
            await asyncio.sleep(LOOK_SECONDS)

    async def _has(self, event: UUID) -> bool:
        return bool(
            await self.connection.fetchval(
                "select exists (select from events where event_id = $1)", event
            )
        )

    async def _count(self, large: Large) -> int:
        return int(
            await self.connection.fetchval(
                "select count(*) from events where tenant_id = $1 and global_position >= $2"
                " and actor_id = $3",
                TENANT, large.first + self.offset, large.name,
            )
        )  # fmt: skip


@dataclass(slots=True)
class Watch:
    """Events that are awaited, by the moment of their commit, and how late each one came."""

    connection: asyncpg.Connection
    awaited: dict[UUID, float] = field(default_factory=dict)
    late: dict[UUID, float] = field(default_factory=dict)

    async def look(self) -> None:
        while True:
            seen = time.monotonic()
            for [event] in await self.connection.fetch(
                "select event_id from events where event_id = any($1)", list(self.awaited)
            ):
                self.late[event] = max(0.0, seen - self.awaited.pop(event))
            await asyncio.sleep(LOOK_SECONDS)

    async def all_arrived(self) -> None:
        until = time.monotonic() + LONGEST_SECONDS
        while self.awaited:
            right(time.monotonic() < until, f"{len(self.awaited)} events did not arrive")
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def watching(target_dsn: str) -> AsyncIterator[Watch]:
    """Watch a target's table until the end of the block."""
    connection = await asyncpg.connect(target_dsn)
    watch = Watch(connection)
    looking = asyncio.create_task(watch.look())
    try:
        yield watch
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        connection.terminate()


async def append_until(
    watch: Watch, append: Callable[[], Awaitable[UUID]], done: asyncio.Event, every: float
) -> list[UUID]:
    """Append one event after the other, so many seconds apart; at least one."""
    events: list[UUID] = []
    while not (events and done.is_set()):
        event = await append()
        watch.awaited[event] = time.monotonic()
        events.append(event)
        await asyncio.sleep(every)
    return events
