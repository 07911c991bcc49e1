"""pgqueuer carries the tenants of waves. Dispatch, retry, heartbeat and schedule are the library's.

Its tables lie in a schema of their own in the control database, and nothing in them counts: a
tenant without an outcome is put into the queue again, once a minute and whenever a worker begins.
So they may be dropped at any time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import asyncpg

from eventsource.fleet.waves import WaveError, WaveState
from eventsource.migration.failures import may_pass
from eventsource.tenant_ids import restored, stored

try:
    import pgqueuer
    from pgqueuer.adapters.persistence import qb
    from pgqueuer.domain.settings import DBSettings
    from pgqueuer.types import Channel
except ImportError as error:  # pragma: no cover - what is missing is said where it is needed
    raise WaveError(
        f"the queue of a fleet is not installed ({error.name}); install the extra: pip install"
        " 'eventsource-migration[fleet]'"
    ) from error

if TYPE_CHECKING:
    from eventsource.fleet.carrier import Carrier
    from eventsource.fleet.repository import WaveRepository
    from eventsource.fleet.waves import WaveItem

    Pool = asyncpg.Pool[Any]

_log = logging.getLogger("eventsource.fleet")

T = TypeVar("T")

#: Where the queue's tables are, and on which channel it wakes its workers.
SCHEMA, CHANNEL = "eventsource_queue", "eventsource_queue"

#: A worker without a sign of life for so long is dead: its jobs are picked by others (seconds).
HEARTBEAT_SECONDS = 20.0

#: How often a worker looks for jobs when nobody wakes it (seconds).
LOOK_SECONDS = 2.0

#: The first wait before a move is tried again that failed for a reason that passes, and the
#: longest; it doubles each time (seconds).
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 300.0

#: How long a worker waits for a control database that is away before it begins again (seconds).
PATIENCE_SECONDS = 120.0

_GONE = (
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedFunctionError,
    # What a prepared statement says whose types are gone.
    asyncpg.InternalServerError,
)


class _PatientDriver(pgqueuer.AsyncpgPoolDriver):
    """A driver of the library that waits for a database that restarts.

    Its workers give up at the first error, and wait for every move that is under way before they
    begin again.
    """

    def __init__(self, pool: Pool, make: Callable[[], Awaitable[None]]) -> None:
        super().__init__(pool)
        self._make = make

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """As the library's."""
        return await self._patiently(partial(super().fetch, query, *args))

    async def execute(self, query: str, *args: object) -> str:
        """As the library's."""
        return await self._patiently(partial(super().execute, query, *args))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await ask()
            except _GONE:
                # Somebody has dropped the tables: what was in them comes again from the waves.
                if time.monotonic() > deadline:
                    raise
                # Statements that a connection has prepared mean the tables that are gone.
                await self._pool.expire_connections()
                await self._make()
            except Exception as error:
                if not may_pass(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)


@dataclass(slots=True)
class Queue:
    """The queue in the control database.

    Args:
        pool: at least three connections; one of them listens.
        groups: for each store that tenants may go to, whose limit it shares.
    """

    pool: Pool
    groups: Mapping[str, str]
    queries: pgqueuer.Queries = field(init=False)
    #: Fills the tables again when they were gone.
    when_made_again: Callable[[], Awaitable[None]] | None = None
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.queries = self._queries(_PatientDriver(self.pool, self._make_again))

    def _queries(self, driver: Any) -> pgqueuer.Queries:
        settings = DBSettings(db_schema=SCHEMA, channel=Channel(CHANNEL))
        return pgqueuer.Queries(
            driver,
            qbe=qb.QueryBuilderEnvironment(settings),
            qbq=qb.QueryQueueBuilder(settings),
            qbs=qb.QuerySchedulerBuilder(settings),
        )

    async def make(self) -> None:
        """Make the queue's tables, or those that another version lacks."""
        async with self.pool.acquire() as connection:
            # On one connection, because the library holds a lock of the session meanwhile.
            driver = pgqueuer.AsyncpgDriver(cast("asyncpg.Connection[Any]", connection))
            await self._queries(driver).apply_upgrade()

    async def _make_again(self) -> None:
        if self._making.locked():
            return  # another statement has met the same
        async with self._making:
            await self.make()
            if self.when_made_again is not None:
                await self.when_made_again()

    async def put(self, items: Sequence[WaveItem]) -> int:
        """Put tenants into the queue, in their order; those that are in it stay where they are.

        How many were put.
        """
        known = [each for each in items if each.target_store_id in self.groups]
        if not known:
            return 0
        put = await self.queries.enqueue(
            [entrypoint_of(self.groups[each.target_store_id]) for each in known],
            [payload_of(each) for each in known],
            [-each.ordinal for each in known],
            None,
            [f"{each.wave_id}/{each.tenant_id}" for each in known],
            None,
            on_conflict="skip",
        )
        return sum(each is not None for each in put)

    async def refill(self, waves: WaveRepository) -> int:
        """Put every tenant that is still to be moved by a running wave into the queue."""
        put = 0
        for wave in await waves.in_state(WaveState.RUNNING):
            put += await self.put(await waves.items(wave, to_do=True))
        return put


def entrypoint_of(group: str) -> str:
    """The library's name for the moves that share a limit."""
    return f"move to {group}"


def payload_of(item: WaveItem) -> bytes:
    """What a job of the queue says: which tenant of which wave."""
    return json.dumps({"wave": str(item.wave_id), "tenant": stored(item.tenant_id)}).encode()


@dataclass(slots=True)
class Worker:
    """One process of a fleet.

    Args:
        limits: how many tenants all workers together move at once, by group. All workers have to
            agree; where they do not, the highest one counts.
        at_once: how many this process moves at once, at least 2.
        stopping: set it, and the worker ends: what it moves goes on in another one.
    """

    carrier: Carrier
    waves: WaveRepository
    queue: Queue
    limits: Mapping[str, int]
    at_once: int = 4
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Work until it is stopped. Also a control database that is away for long is waited for."""
        await pgqueuer.run(
            self._manager,
            dequeue_timeout=timedelta(seconds=LOOK_SECONDS),
            # One at a time: a worker that took ten would leave the others without.
            batch_size=1,
            max_concurrent_tasks=max(2, self.at_once),
            heartbeat_timeout=timedelta(seconds=HEARTBEAT_SECONDS),
            restart_on_failure=True,
            restart_delay=timedelta(seconds=2),
            shutdown=self.stopping,
        )

    @asynccontextmanager
    async def _manager(self) -> AsyncIterator[pgqueuer.PgQueuer]:
        await self.queue.make()
        await self.queue.refill(self.waves)
        queries = self.queue.queries
        manager = pgqueuer.PgQueuer(queries.driver, channel=Channel(CHANNEL), queries=queries)
        backoff = partial(
            pgqueuer.DatabaseRetryEntrypointExecutor,
            # How often a tenant is tried, its wave says.
            max_attempts=1_000_000,
            initial_delay=timedelta(seconds=FIRST_RETRY_SECONDS / 2),
            max_delay=timedelta(seconds=LONGEST_RETRY_SECONDS),
        )
        for group, limit in self.limits.items():
            manager.entrypoint(
                entrypoint_of(group), concurrency_limit=limit, executor_factory=backoff
            )(self._deliver)

        async def refill(_: object) -> None:
            await self.queue.refill(self.waves)

        manager.schedule("refill", "* * * * *")(refill)

        async def fill_again() -> None:
            schedules = manager.sm.registry
            await queries.insert_schedule({key: each.next_in() for key, each in schedules.items()})
            await self.queue.refill(self.waves)

        self.queue.when_made_again = fill_again
        yield manager

    async def _deliver(self, job: pgqueuer.Job) -> None:
        asked = json.loads(job.payload or b"{}")
        delivering = asyncio.create_task(
            self.carrier.deliver(UUID(asked["wave"]), restored(asked["tenant"]))
        )
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({delivering, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not delivering.done():
                raise pgqueuer.RetryRequested(reason="the worker was stopped")
            again = delivering.result()
        finally:
            for task in (delivering, stopping):
                if not task.done():
                    task.cancel()
            await asyncio.wait({delivering, stopping})
        if again is not None:
            raise pgqueuer.RetryRequested(again, "not yet")
