"""The mirror: new events reach the target at once, so that the lag stays small.

Nothing depends on it. What it fails to write, or a process that does not mirror, is healed by the
next pass; what it does write is compared there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource.catalog.two_sides import compare
from eventsource.connections import brief, connect
from eventsource.errors import EventSourceError
from eventsource.identifiers import quote_identifier
from eventsource.migration import telemetry
from eventsource.migration.event_table import EventTable, OwnTable, catalog_of
from eventsource.migration.failures import PASSING
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.stores.postgresql import PostgreSQLEventStore

    Connection = asyncpg.Connection[Any]

_log = logging.getLogger("eventsource.router")

#: Between two warnings about one tenant's mirror, in seconds; the later one counts what it missed.
WARN_EVERY = 60.0

#: Appends waiting to be mirrored; more are left to the passes.
QUEUE_LENGTH = 10_000

#: Appends mirrored in one transaction.
BATCH = 200

#: Distinct streams remembered for the statistics.
AGGREGATES_REMEMBERED = 10_000

#: A value crosses as text, and reads back as the same value whatever the servers' defaults are.
#: Statements and not startup parameters, which a pooler in session mode refuses.
_SETTINGS = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "row_security": "off",
    # The driver writes to the same fence row: at a stricter level that would be a conflict.
    "default_transaction_isolation": "read committed",
    # A process that freezes here must not hold the fence row that the cutover waits for.
    "idle_in_transaction_session_timeout": "1000",
    "statement_timeout": "5000",
}

#: A table that is not there, too: somebody may make it, or correct the address.
_PASSING = (*PASSING, asyncpg.PostgresError, EventSourceError)


@dataclass(frozen=True, slots=True)
class FailureStats:
    """What the mirror could not write; every one of these events is left to the passes.

    ``unique_aggregates_affected`` counts up to 10,000.
    """

    total_failures: int
    total_events_failed: int
    first_failure_at: datetime | None
    last_failure_at: datetime | None
    unique_aggregates_affected: int


@dataclass(frozen=True, slots=True)
class DualWriteStats:
    """What the mirror did since this process began to mirror the tenant (events).

    ``deferred`` events were left to the passes on purpose: their stream's predecessor had not
    arrived yet, the pass had been there first, or the migration was over.
    """

    mirrored: int
    deferred: int
    waiting: int
    failures: FailureStats


@dataclass(frozen=True, slots=True)
class _Append:
    aggregate_id: UUID
    aggregate_type: str
    last_version: int
    events: int


class DualWriteInterceptor:
    """Mirrors one tenant's committed appends to the target of its migration.

    It works after the append, on connections of its own, so no append waits for the target.

    Args:
        source: the store that was written.
        target: the store that the tenant is moving to.
        migration: the migration it is bound to; once that is over nothing is written any more.
    """

    def __init__(
        self, source: PostgreSQLEventStore, target: PostgreSQLEventStore, migration: Migration
    ) -> None:
        self.migration_id = migration.id
        self._tenant_id = as_uuid(migration.tenant_id)
        self._source, self._target = source, target
        self._queue: asyncio.Queue[_Append] = asyncio.Queue(QUEUE_LENGTH)
        self._links: _MirrorConnections | None = None
        self._mirrored = self._deferred = 0
        self._failures = self._events_failed = 0
        self._first_failure: datetime | None = None
        self._last_failure: datetime | None = None
        self._aggregates: set[UUID] = set()
        self._warned_at: float | None = None
        self._worker = asyncio.get_running_loop().create_task(
            self._work(), name=f"eventsource-mirror-{migration.tenant_id}"
        )

    def mirror(
        self, aggregate_id: UUID, aggregate_type: str, last_version: int, events: int
    ) -> None:
        """Note a committed append of ``events`` events up to ``last_version``; never waits."""
        append = _Append(aggregate_id, aggregate_type, last_version, events)
        try:
            self._queue.put_nowait(append)
        except asyncio.QueueFull:
            self._failed([append], f"{QUEUE_LENGTH} appends wait already")

    def get_failure_stats(self) -> FailureStats:
        """What could not be written."""
        return FailureStats(
            self._failures,
            self._events_failed,
            self._first_failure,
            self._last_failure,
            len(self._aggregates),
        )

    def stats(self) -> DualWriteStats:
        """What was written, deferred and failed."""
        return DualWriteStats(
            self._mirrored, self._deferred, self._queue.qsize(), self.get_failure_stats()
        )

    async def close(self) -> None:
        """Stop; what is still waiting is left to the passes."""
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker

    async def _work(self) -> None:
        try:
            # A thread loads it: the application's other tasks go on.
            await asyncio.to_thread(telemetry.api)
            while True:
                appends = [await self._queue.get()]
                while len(appends) < BATCH and not self._queue.empty():
                    appends.append(self._queue.get_nowait())
                await self._write(appends)
        finally:
            self._disconnect()

    async def _write(self, appends: list[_Append]) -> None:
        try:
            if self._links is None:
                self._links = await _MirrorConnections.open(self._source, self._target)
            written = await self._links.copy(appends, self._tenant_id, self.migration_id)
        except _PASSING as error:
            self._failed(appends, brief(error))
            self._disconnect()
            await asyncio.sleep(0.2)
            return
        self._mirrored += written
        self._deferred += sum(append.events for append in appends) - written

    def _disconnect(self) -> None:
        if self._links is not None:
            self._links.terminate()
            self._links = None

    def _failed(self, appends: list[_Append], reason: str) -> None:
        now = datetime.now(UTC)
        self._failures += len(appends)
        events = sum(append.events for append in appends)
        self._events_failed += events
        telemetry.mirror_failed(self._tenant_id, events)
        self._first_failure = self._first_failure or now
        self._last_failure = now
        for append in appends:
            if len(self._aggregates) < AGGREGATES_REMEMBERED:
                self._aggregates.add(append.aggregate_id)
        self._warn(reason)

    def _warn(self, reason: str) -> None:
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            _log.warning(
                "the mirror of tenant %s cannot write to its target, the passes carry the events"
                " (%d so far): %s",
                self._tenant_id, self._events_failed, reason,
            )  # fmt: skip


@dataclass(slots=True)
class _MirrorConnections:
    """The mirror's two connections and its statements."""

    source: Connection
    target: OwnTable
    select: str
    columns: list[str]

    @classmethod
    async def open(
        cls, source: PostgreSQLEventStore, target: PostgreSQLEventStore
    ) -> _MirrorConnections:
        opened: list[OwnTable] = []
        try:
            for store in (source, target):
                address = await store.address()
                connection = await connect(
                    address.parameters, application_name="eventsource-mirror"
                )
                opened.append(EventTable(connection, address))
                await connection.execute(
                    ";".join(f"set {name} = '{value}'" for name, value in _SETTINGS.items())
                )
            left, right = opened
            seen = await catalog_of(left, "source"), await catalog_of(right, "target")
            carried = compare(*seen).carried
            columns = [column for column in seen[1].columns if column.name in carried]
        except BaseException:
            for table in opened:
                table.connection.terminate()
            raise
        names = [column.name for column in columns]
        return cls(left.connection, right, _select(left.name, names), names)

    async def copy(self, appends: list[_Append], tenant_id: UUID, migration_id: UUID) -> int:
        """Copy the appends' rows at their carried positions; the number that was new."""
        rows = await self.source.fetch(
            self.select,
            [append.aggregate_id for append in appends],
            [append.aggregate_type for append in appends],
            [append.last_version - append.events + 1 for append in appends],
            [append.last_version for append in appends],
        )
        if not rows:
            return 0
        async with self.target.connection.transaction():
            # Held until the commit: an abort that changes the fence row waits for this mirror and
            # then deletes what it wrote.
            permitted = await self.target.connection.fetchval(
                f"select {self.target.beside('eventsource_mirror_permit')}($1, $2, $3)",
                self.target.address.table, tenant_id, migration_id,
            )  # fmt: skip
            if not permitted:
                return 0
            given = json.dumps([list(row.values()) for row in rows])
            return await self.write(given, tenant_id, migration_id)

    async def write(self, given: str, tenant_id: UUID, migration_id: UUID) -> int:
        """Write the rows with the rights of the table's owner; see ``mirror.sql``."""
        written = await self.target.connection.fetchval(
            f"select {self.target.beside('eventsource_mirror')}"
            "($1, $2, $3, $4::text[], $5::text::jsonb)",
            self.target.address.table, tenant_id, migration_id, self.columns, given,
        )  # fmt: skip
        return int(written)

    def terminate(self) -> None:
        self.source.terminate()
        self.target.connection.terminate()


def _select(table: str, columns: list[str]) -> str:
    names = ", ".join(f"e.{quote_identifier(name)}::text" for name in columns)
    return (
        f"select {names}"
        " from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])"
        " as a(aggregate_id, aggregate_type, low, high)"
        f" join {table} e on e.aggregate_id = a.aggregate_id"
        " and e.aggregate_type = a.aggregate_type and e.version between a.low and a.high"
        " order by e.global_position"
    )
