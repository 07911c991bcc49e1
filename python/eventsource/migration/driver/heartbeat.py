"""The driver's heartbeat: renews the lease, reads requests, publishes progress."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eventsource.migration import telemetry
from eventsource.migration.driver.news import wait
from eventsource.migration.driver.throttle import Throttle
from eventsource.migration.errors import LeaseLostError
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from eventsource.dataplane import PassSession
    from eventsource.migration.models import Migration

#: Channel on which requests and transitions are announced; the payload is the migration id.
CHANNEL = "eventsource_migrations"

#: The shortest time that a silent control database is waited for (seconds).
LEAST_PATIENCE = 5.0

#: How often the journal is read when nothing is announced (a pooler may drop NOTIFY), in seconds.
TICK_SECONDS = 0.25


@dataclass(slots=True)
class Heartbeat:
    """Runs beside the driver on a connection of its own.

    Attributes:
        migration: the journal's row as the driver last read it.
        stop_requested: somebody wants a pause or an abort.
        stop_asked: set while that is so, for who waits for it.
        throttle: holds the pass that runs to its rate.
        stopped: the session that was last asked to stop; it takes no further pass.
        counted: how many events the tenant has, when that was found while they are copied.
    """

    repository: PostgreSQLMigrationRepository
    owner: UUID
    migration: Migration
    stop_requested: bool = False
    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)
    throttle: Throttle = field(default_factory=Throttle)
    stopped: PassSession | None = None
    counted: int | None = None
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _also: Callable[[Migration, float], None] = lambda _migration, _asked: None
    _session: PassSession | None = None
    _is_bulk: bool = False

    @classmethod
    async def start(
        cls,
        connection: asyncpg.Connection[Any],
        migration_id: UUID,
        owner: UUID,
        also: Callable[[Migration, float], None] = lambda _migration, _asked: None,
    ) -> Heartbeat:
        """Listen, then read: nothing is missed between the two.

        Args:
            also: called with the row whenever there may be something new in it, and when it was
                asked for (by the monotonic clock).
        """
        repository = PostgreSQLMigrationRepository(connection)
        asked, news = asyncio.Event(), asyncio.Event()

        def heard(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if payload == str(migration_id):
                asked.set()
                news.set()

        await connection.add_listener(CHANNEL, heard)
        migration = await repository.get(migration_id)
        return cls(repository, owner, migration, _asked=asked, _news=news, _also=also)

    async def run(self) -> None:
        """Until cancelled. Raises LeaseLostError when another driver took over."""
        every = self.migration.config.lease_seconds / 3
        # Who starts it has renewed the lease and read the journal a moment ago.
        renewed = time.monotonic()
        await self._pass_on(self.migration)
        while True:
            await _wait(self._news, TICK_SECONDS)
            # Without an answer for so long the lease is over, and this driver's time with it.
            async with asyncio.timeout(max(self.migration.config.lease_seconds, LEAST_PATIENCE)):
                if time.monotonic() - renewed >= every:
                    await self._renew()
                    renewed = time.monotonic()
                asked = time.monotonic()
                latest = await self.repository.get(self.migration.id)
                # Also where nothing was announced: a pooler may have dropped it.
                self._also(latest, asked)
                await self._pass_on(latest)

    async def _renew(self) -> None:
        seconds = self.migration.config.lease_seconds
        if not await self.repository.renew_lease(self.migration.id, self.owner, seconds):
            raise LeaseLostError(f"another driver carries {self.migration.id} on")

    async def refresh(self, repository: PostgreSQLMigrationRepository) -> Migration:
        """Read the journal's row now."""
        self.migration = await repository.get(self.migration.id)
        return self.migration

    async def rest(self, seconds: float) -> None:
        """Wait, but not past a request."""
        await _wait(self._asked, seconds)

    @contextlib.contextmanager
    def attending(self, session: PassSession, *, bulk: bool = False) -> Iterator[None]:
        """While a pass runs: hold it to its rate, stop it at a chunk when asked to, and publish
        the bulk's progress.
        """
        self._session, self._is_bulk = session, bulk
        self._allow(self.migration)
        self.throttle.hold(session)
        try:
            yield
        finally:
            self._session = None
            self.throttle.hold(None)

    def _allow(self, at: Migration) -> None:
        urgent = at.asked_for is not None and at.state is not MigrationState.BULK_COPY
        self.throttle.allow(at.config.max_events_per_second, urgent=urgent)

    async def _pass_on(self, latest: Migration) -> None:
        self.stop_requested = latest.pause_requested or latest.abort_requested is not None
        if self.stop_requested:
            self.stop_asked.set()
        else:
            self.stop_asked.clear()
        self._allow(latest)
        telemetry.observe(latest)
        if (latest.throttle_rate, latest.throttle_reason) != (reported := self.throttle.reported()):
            await self.repository.record_throttle(latest.id, self.owner, *reported)
        session = self._session
        if session is None:
            return
        if self.stop_requested:
            session.request_stop()
            self.stopped = session
        if not self._is_bulk:
            return
        await self.repository.record_progress(
            latest.id, self.owner, session.progress().rows, self.counted
        )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    await wait(event, seconds)
    event.clear()
