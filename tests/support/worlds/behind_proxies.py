"""A world of three servers of its own, which a test may crash, with a proxy before each.

Writers and the checker reach the servers directly; the coordinator goes through the proxies, where
a fault waits for the statement that it belongs to.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from eventsource.migration import (
    CutoverTimeoutError,
    Migration,
    MigrationConfig,
    MigrationError,
    MigrationState,
    RoutersNotReadyError,
)
from eventsource.testing import Cluster, WriterProcess
from eventsource.testing.proxy import Proxy, Session, Trap, named
from tests.support.worlds.two_servers import (
    World,
    acknowledged,
    all_attempts,
    two_servers,
    writing,
)

SIDES = ("source", "target", "control")
DRIVER = named("eventsource-migrate")

#: With all databases up again a migration reaches its end within this time (I11, seconds).
RESUMED_WITHIN = 30.0

#: Quick passes, and chunks so small that a copy has many of them.
CONFIG: dict[str, Any] = {
    "pass_interval_seconds": 0.05,
    "lease_seconds": 3.0,
    "batch_size": 20,
    "cutover_timeout_seconds": 2.0,
}

Fault = Callable[["FaultyWorld"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of a migration: the statement that the driver is about to run, and where."""

    name: str
    side: str
    statement: str | Callable[[Session, str], bool]
    cutover: bool = False


def _decides(session: Session, text: str) -> bool:
    return text.lower().endswith("commit") and session.ran("set state = 'moved'")


#: In the order in which a migration comes by.
POINTS = {
    point.name: point
    for point in (
        Point("the fence is raised", "source", "insert into \"public\".\"eventsource_fences\""),
        Point("the guard is made", "source", "eventsource_guard_renew"),
        Point("the block is reserved", "target", "eventsource_copy_progress\" as p (migration_id"),
        Point("a snapshot is taken", "source", "pg_current_snapshot()::text as snapshot"),
        Point("the barrier", "source", "eventsource_witnesses"),
        Point("a pass is stored", "target", "set pass_number = $4"),
        Point("the data plane logs in", "source", "set enable_bitmapscan = off"),
        Point("a chunk is read", "source", "to stdout (format binary)"),
        Point("a chunk is mapped", "control", "from stdin (format binary)"),
        Point("a chunk is written", "target", "from stdin (format binary)"),
        Point("a chunk is committed", "target",
              lambda session, text: text == "commit" and session.ran("eventsource_copy_progress")),
        Point("a pass is proven", "target", "set proven_snapshot = snapshot"),
        Point("the fence is asked for", "source", "idle_in_transaction_session_timeout = ",
              cutover=True),
        Point("the last barrier", "source", lambda session, text: "eventsource_witnesses" in text,
              cutover=True),
        Point("the decision", "source", "set state = 'moved'", cutover=True),
        Point("the decision is committed", "source", _decides, cutover=True),
        Point("the target is opened", "target", "eventsource_open_target", cutover=True),
        Point("the decision is recorded", "control", "set fence_position", cutover=True),
    )
}  # fmt: skip


@dataclass
class FaultyWorld:
    """The servers, the proxies, and two ways to the same stores."""

    servers: Mapping[str, Cluster]
    proxies: Mapping[str, Proxy]
    direct: World
    driver: World
    tenant: UUID = field(default_factory=uuid4)
    bystander: UUID = field(default_factory=uuid4)

    def trap(self, point: Point) -> Trap:
        """Keep the driver where it is at the point."""
        return self.proxies[point.side].hold_at(point.statement, DRIVER)

    async def crash(self, side: str) -> None:
        """The server loses its power, and has it again."""
        await asyncio.to_thread(self.servers[side].crash)
        await asyncio.to_thread(self.servers[side].restart)

    async def restart(self, side: str) -> None:
        """The server is stopped properly and started again."""
        await asyncio.to_thread(self.servers[side].restart)

    @contextlib.asynccontextmanager
    async def written_to(
        self, *, events: int = 200, **options: Any
    ) -> AsyncIterator[list[WriterProcess]]:
        """Tenant and bystander with a past, and a process whose tasks write to both."""
        both = [self.tenant, self.bystander]
        await self.direct.seed(both, events=events, streams=10)
        config = self.direct.writer_config("writer", both, **{"tasks": 6, **options})
        with writing([config]) as writers:
            writers[0].focus(self.tenant)
            await acknowledged(writers, 3, self.tenant)
            yield writers
            await acknowledged(writers, 3, self.tenant)

    async def at(self, point: Point, fault: Fault, *, within: float = RESUMED_WITHIN) -> Migration:
        """Begin to move, let the fault happen at the point, and see that the move comes to its end.

        Raises:
            AssertionError: it did not within so many seconds of the fault's end.
        """
        trap = None if point.cutover else self.trap(point)
        migration = await self.driver.start(self.tenant)
        asked: asyncio.Task[Any] | None = None
        if point.cutover:
            await self.driver.reach(migration.id, MigrationState.DUAL_WRITE)
            if point.name == "the last barrier":
                trap = self.proxies["source"].hold_at(_under_the_fence(self), DRIVER)
            else:
                trap = self.trap(point)
            asked = asyncio.create_task(self.driver.coordinator.initiate_cutover(migration.id))
        assert trap is not None
        await trap.reached()
        await fault(self)
        trap.release()
        return await self.to_the_end(migration.id, asked, within=within)

    async def again(self) -> Migration:
        """Abort the tenant's migration and move it by another one."""
        coordinator = self.driver.coordinator
        [refused] = await coordinator.get_migrations_by_tenant(self.tenant)
        await coordinator.abort_migration(refused.id)
        migration = await self.driver.start(self.tenant)
        await self.driver.reach(migration.id, MigrationState.DUAL_WRITE)
        return await self.to_the_end(migration.id)

    async def to_the_end(
        self,
        migration_id: UUID,
        asked: asyncio.Task[Any] | None = None,
        *,
        within: float = RESUMED_WITHIN,
    ) -> Migration:
        """Ask for the cutover until it is done: what a cutover may say meanwhile is typed."""
        deadline = time.monotonic() + within
        while True:
            ask = asked or self.driver.coordinator.initiate_cutover(migration_id)
            asked = None
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    done: Migration = await ask
                assert done.state is MigrationState.MIGRATED
                return done
            except TimeoutError:
                migration = await self.direct.coordinator.get_migration(migration_id)
                raise AssertionError(
                    f"after {within} s it is {migration.state}: {migration.error_message}"
                ) from None
            except CutoverTimeoutError:
                pass
            except RoutersNotReadyError:
                # A router looked while the target was away; it looks again every few seconds.
                await asyncio.sleep(1.0)
            except MigrationError as error:
                # The decision's outcome was not known when whoever waited was answered.
                if "was rolled back" not in str(error) and "lost" not in str(error):
                    raise

    async def check(self, migration: Migration, writers: Sequence[WriterProcess]) -> None:
        """I1 to I8 by the independent checker."""
        attempts = all_attempts(writers)
        report = await self.direct.check(migration, attempts)
        report.assert_clean()
        assert report.written_at_target > 0
        (await self.direct.check_bystander(self.bystander, attempts)).assert_clean()


def _under_the_fence(faulty: FaultyWorld) -> Callable[[Session, str], bool]:
    """The barrier that comes while another session of the driver holds the fence."""
    proxy = faulty.proxies["source"]

    def matches(session: Session, text: str) -> bool:
        return "eventsource_witnesses" in text and any(
            relay.session.state == "T" and relay.session.ran("pg_advisory_xact_lock(")
            for relay in proxy._relays
            if relay.session is not session
        )

    return matches


@contextlib.contextmanager
def three_servers(**settings: str | int | float) -> Iterator[dict[str, Cluster]]:
    """A server per database, as in production; the target of another major version."""
    with contextlib.ExitStack() as stack:
        yield {
            side: stack.enter_context(
                Cluster.start(18 if side == "target" else 16, settings or None)
            )
            for side in SIDES
        }


@contextlib.asynccontextmanager
async def behind_proxies(
    servers: Mapping[str, Cluster], directory: Path, **changed: Any
) -> AsyncIterator[FaultyWorld]:
    """Fresh databases on the servers; ``changed`` are fields of the coordinator's configuration."""
    async with contextlib.AsyncExitStack() as stack:
        dsns, proxies = {}, {}
        for side in SIDES:
            if not servers[side].is_running:
                servers[side].restart()
            dsns[side] = await servers[side].create_database()
            proxies[side] = await stack.enter_async_context(Proxy(dsns[side]))
        config = MigrationConfig(**{**CONFIG, **changed})
        direct = await stack.enter_async_context(
            two_servers(dsns["source"], dsns["target"], dsns["control"], directory)
        )
        driver = await stack.enter_async_context(
            two_servers(
                proxies["source"].dsn,
                proxies["target"].dsn,
                proxies["control"].dsn,
                directory,
                config,
            )
        )
        driver.baseline = direct.baseline
        yield FaultyWorld(servers, proxies, direct, driver)
        for proxy in proxies.values():
            proxy.restore()
    for side in SIDES:
        await servers[side].drop_database(urlsplit(dsns[side]).path[1:])
