"""A process that appends like an application would, and records every answer.

Run as ``python -m eventsource.testing.writers CONFIG.json``; ``WriterProcess`` does that. Each of
its tasks owns some streams of every tenant and shares others with all tasks of all processes, where
it retries after an optimistic conflict with the same events. It ends when its stop file appears, on
SIGTERM, or when its standard input closes if that is asked for; calls under way are finished first.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg

from eventsource import DomainEvent, ExpectedVersion, OptimisticLockError, register_event
from eventsource.migration.errors import MigrationError
from eventsource.migration.failures import PASSING
from eventsource.sqlstates import MOVED, sqlstate_of
from eventsource.stores.interface import AppendResult, EventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing.records import Outcome, RecordFile
from eventsource.testing.writer_config import WriterConfig

STREAM_TYPE = "Ledger"
_RETRIES = 8
# The server was lost or went away: what it did with a COMMIT is not known.
_AMBIGUOUS = ("08", "57P")


@register_event("eventsource.testing.Entry")
class Entry(DomainEvent):
    """What the writers append."""

    number: int
    text: str


class Writer:
    """The tasks of one process on stores that are already open."""

    def __init__(
        self,
        config: WriterConfig,
        records: RecordFile,
        store: EventStore,
        source: PostgreSQLEventStore,
    ) -> None:
        self._config = config
        self._records = records
        self._store = store
        self._source = source
        # Tenants that have left, as the source answered: no slow commits, no retries there.
        self._moved: set[UUID] = set()
        self._focus: UUID | None = None
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Append until `stopping` is set; calls under way are finished."""
        self._records.note("ready", writer=self._config.name)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_files())
            for task in range(self._config.tasks):
                group.create_task(self._run_task(task))

    async def _watch_files(self) -> None:
        while not self.stopping.is_set():
            if self._config.stop_path.exists():
                self.stopping.set()
            with contextlib.suppress(OSError, ValueError):
                self._focus = UUID(self._config.focus_path.read_text())
            await self._pause(0.02)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _run_task(self, task: int) -> None:
        config = self._config
        rng = random.Random(f"{config.seed}/{config.name}/{task}")
        loop = asyncio.get_running_loop()
        due = loop.time() + rng.random() / (config.appends_per_second or 1e9)
        number = 0
        while not self.stopping.is_set():
            tenant = rng.choice(config.tenants)
            if self._focus is not None and rng.random() < config.focus:
                tenant = self._focus
            slow = tenant not in self._moved and rng.random() < config.slow_commits
            # A slow transaction keeps its stream locked, so it takes one that nobody shares.
            shared = not slow and rng.random() < 0.25
            owner = "shared" if shared else f"{config.name}/{task}"
            count = config.shared_streams if shared else config.streams_per_task
            stream = uuid5(NAMESPACE_URL, f"{tenant}/{owner}/{rng.randrange(count)}")
            events = [
                Entry(
                    aggregate_id=stream,
                    aggregate_type=STREAM_TYPE,
                    tenant_id=tenant,
                    number=number + i,
                    text=rng.randbytes(config.payload_bytes // 2).hex(),
                    actor_id=config.name,
                    metadata={"task": task},
                )
                for i in range(rng.randint(1, config.max_events))
            ]
            number += len(events)
            expect_any = rng.random() < config.expect_any
            await self._append(task, tenant, stream, events, slow=slow, expect_any=expect_any)
            if config.appends_per_second is not None:
                due = max(due + 1 / config.appends_per_second, loop.time() - 1)
                await self._pause(max(0.0, due - loop.time()))

    async def _append(
        self,
        task: int,
        tenant: UUID,
        stream: UUID,
        events: Sequence[Entry],
        *,
        slow: bool,
        expect_any: bool,
    ) -> None:
        """Append, again after a conflict or an unknown outcome, always with the same events."""
        expected: int | None = ExpectedVersion.ANY
        may_be_stored = False
        for attempt in range(_RETRIES):
            # After an unknown outcome the version stays, also when a later attempt is refused.
            if not expect_any and not may_be_stored:
                expected = await self._version(tenant, stream)
            if expected is None:
                return
            outcome = await self._attempt(task, tenant, stream, events, expected, slow)
            may_be_stored |= outcome is Outcome.UNKNOWN
            if outcome is Outcome.OK or self.stopping.is_set() or tenant in self._moved:
                return
            await self._pause(0.005 * (attempt + 1))

    async def _version(self, tenant: UUID, stream: UUID) -> int | None:
        try:
            return await self._store.get_stream_version(stream, STREAM_TYPE, tenant_id=tenant)
        except (*PASSING, asyncpg.PostgresError, MigrationError) as error:
            self._records.note("read_failed", tenant_id=str(tenant), error=_describe(error))
            await self._pause(0.1)
            return None

    async def _attempt(
        self,
        task: int,
        tenant: UUID,
        stream: UUID,
        events: Sequence[Entry],
        expected: int,
        slow: bool,
    ) -> Outcome:
        number = self._records.invoke(
            writer=self._config.name,
            task=task,
            tenant_id=tenant,
            stream=(STREAM_TYPE, stream),
            expected_version=expected,
            event_ids=[event.event_id for event in events],
            path="source" if slow or self._config.frozen else "router",
        )
        try:
            if slow:
                result = await self._append_slowly(stream, events, expected)
            else:
                result = await self._store.append_events(stream, STREAM_TYPE, events, expected)
        except Exception as error:
            outcome = outcome_of(error)
            if sqlstate_of(error) == MOVED:
                self._moved.add(tenant)
            self._records.outcome(number, outcome, error=_describe(error))
            return outcome
        except BaseException as error:
            self._records.outcome(number, Outcome.UNKNOWN, error=_describe(error))
            raise
        self._records.outcome(
            number,
            Outcome.OK,
            new_version=result.new_version,
            global_position=result.global_position,
        )
        return Outcome.OK

    async def _append_slowly(
        self, stream: UUID, events: Sequence[Entry], expected: int
    ) -> AppendResult:
        async with self._source.pool.acquire() as connection:
            async with connection.transaction():
                result = await self._source.append_events(
                    stream, STREAM_TYPE, events, expected, connection=connection
                )
                await asyncio.sleep(self._config.slow_commit_seconds)
            return result


def outcome_of(error: Exception) -> Outcome:
    """Whether an append that raised may have been stored all the same."""
    if isinstance(error, (OptimisticLockError, MigrationError)):
        return Outcome.REFUSED
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = str(getattr(error, "sqlstate", "") or "")
        return Outcome.UNKNOWN if sqlstate.startswith(_AMBIGUOUS) else Outcome.REFUSED
    return Outcome.UNKNOWN


def _describe(error: BaseException) -> str:
    sqlstate = sqlstate_of(error)
    name = type(error).__name__ + (f"[{sqlstate}]" if sqlstate else "")
    return f"{name}: {error}"[:300]


@contextlib.asynccontextmanager
async def open_stores(
    config: WriterConfig,
) -> AsyncIterator[tuple[EventStore, PostgreSQLEventStore]]:
    """The store to append to, and the source store below it."""
    from eventsource.migration import TenantStoreRouter
    from eventsource.migration.repositories import PostgreSQLRoutingRepository

    settings = {"default_transaction_isolation": config.isolation}
    if config.replica_role:
        settings["session_replication_role"] = "replica"
    # How asyncpg is set up before a transaction pooler.
    common: dict[str, Any] = {"statement_cache_size": 0} if config.pooled else {}
    at_stores = common if config.pooled else {"server_settings": settings}
    async with contextlib.AsyncExitStack() as stack:

        async def pool(dsn: str, size: int, **options: Any) -> asyncpg.Pool[asyncpg.Record]:
            # Open from the start, as asyncpg's own default is: an append that follows its tenant
            # should not have to wait for a connection to be made.
            opened = await asyncpg.create_pool(dsn, min_size=size, max_size=size, **options)
            return await stack.enter_async_context(opened)

        wanted = {config.source} if config.frozen else set(config.stores)
        stores = {
            store_id: PostgreSQLEventStore(
                await pool(at.dsn, config.tasks + 2, **at_stores), at.table
            )
            for store_id, at in config.stores.items()
            if store_id in wanted
        }
        source = stores[config.source]
        if config.frozen:
            yield source, source
            return
        if config.control_dsn is None:
            raise ValueError("a writer with a router needs control_dsn")
        router = TenantStoreRouter(
            default_store=source,
            routing_repo=PostgreSQLRoutingRepository(await pool(config.control_dsn, 4, **common)),
            stores=dict(stores),
        )
        yield await stack.enter_async_context(router), source


async def _main(config: WriterConfig) -> None:
    records = RecordFile(config.records_path)
    loop = asyncio.get_running_loop()
    async with open_stores(config) as (store, source):
        writer = Writer(config, records, store, source)
        loop.add_signal_handler(signal.SIGTERM, writer.stopping.set)
        if config.stop_with_stdin:

            def stop() -> None:
                # At its end it stays readable.
                loop.remove_reader(sys.stdin.fileno())
                writer.stopping.set()

            loop.add_reader(sys.stdin.fileno(), stop)
        await writer.run()
    records.note("stopped", writer=config.name)
    records.close()


if __name__ == "__main__":
    asyncio.run(_main(WriterConfig.from_json(Path(sys.argv[1]).read_text())))
