"""The drivers of this process, in its background, and waiting for what they do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from eventsource.connections import in_a_sentence
from eventsource.migration.connections.driver_connections import Endpoints
from eventsource.migration.connections.kept import KeptSessions
from eventsource.migration.driver import loading
from eventsource.migration.driver.lease import Lease, LeasesSeen
from eventsource.migration.driver.newer import LeftAlone
from eventsource.migration.driver.news import Call, News, wait
from eventsource.migration.driver.places import Places
from eventsource.migration.errors import RoutingError
from eventsource.migration.event_table import AnyTable, of_store
from eventsource.migration.failures import PASSING, may_be_mended, may_pass
from eventsource.migration.models import Migration
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.routing.route_hook import WHOLE_SECONDS
from eventsource.migration.states import MigrationState
from eventsource.migration.tables import guard
from eventsource.said import Said
from eventsource.stores.interface import EventStore
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from eventsource.migration.driver.follower import Follower
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.ways_back import WayBack
    from eventsource.migration.routing.route_hook import PendingRoute, RouteHook
    from eventsource.migration.routing.router import TenantStoreRouter

_log = logging.getLogger("eventsource.migration.driver")

#: How often a waiting call reads the journal (seconds); and beside a driver of this process, which
#: lets it hear of what is new.
POLL_SECONDS, BESIDE_SECONDS = 0.05, 0.5

#: How often a process looks at the migrations that it stands by for (seconds).
STAND_BY_SECONDS = 0.5

#: How much later a process takes up one more migration for each that it drives (seconds).
HESITATION_SECONDS = 0.05

#: How many a process takes up at one look at the journal, those included that wait for a place.
MOST_AT_A_LOOK = 5

#: How long a waiting call puts up with a silent control database (seconds).
OUTAGE_SECONDS = 30.0


class BackgroundDrivers:
    """Keeps a driver at work for each migration that no other process drives.

    Args:
        migrations: the journal.
        router: knows the stores by id.
        route_hook: what follows each route that changes; None is nothing.
    """

    def __init__(
        self,
        migrations: PostgreSQLMigrationRepository,
        router: TenantStoreRouter,
        route_hook: RouteHook | None = None,
    ) -> None:
        self._migrations = migrations
        self._route_hook = route_hook
        #: When all routes are compared again.
        self._all_routes_at = float("-inf")
        self._router = router
        self._driving: set[asyncio.Task[None]] = set()
        self._leases = LeasesSeen()
        self._left_alone = LeftAlone()
        self._said = Said(_log)
        #: Sessions for what comes next: preflight, driver, way back.
        self.kept = KeptSessions()
        self._places = Places()
        #: For the calls that wait.
        self.news = News()
        self._stands_by_for: set[UUID] = set()
        self._standing_by: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        #: Why this process cannot even ask for a lease, until a call has raised it.
        self._refused: dict[UUID, asyncpg.PostgresError] = {}

    def start(self, migration: Migration) -> None:
        """Begin to drive a migration that this process does not drive yet."""
        self.stand_by(migration.id)
        self._begin(migration)

    def stand_by(self, migration_id: UUID) -> None:
        """From now on take the migration up whenever its lease runs out, until it is over.

        The driver of today may be a process that died a moment ago, and nobody else may come.
        """
        self._stands_by_for.add(migration_id)
        if self._standing_by is None or self._standing_by.done():
            self._standing_by = asyncio.get_running_loop().create_task(
                self._take_up_what_is_left(), name="eventsource-standing-by"
            )

    async def _take_up_what_is_left(self) -> None:
        while self._stands_by_for:
            await asyncio.sleep(STAND_BY_SECONDS)
            # What is added while the journal is read was not asked about: it stays for next time.
            asked, self._stands_by_for = self._stands_by_for, set()
            try:
                found = await self._migrations.get_many(list(asked))
            except Exception as error:
                self._stands_by_for |= asked
                if not may_pass(error):
                    self._said.warn("all", f"cannot look after migrations: {in_a_sentence(error)}")
                continue
            self._said.over("all")
            over = {each.id for each in found if each.state.is_final and not each.abort_requested}
            # Those whose row is gone do not come back either: nothing is left to drive.
            self._stands_by_for |= {each.id for each in found} - over
            for migration in found:
                if migration.id not in over and migration.state is not MigrationState.PAUSED:
                    self.ensure(migration)

    def _begin(self, migration: Migration) -> None:
        task = asyncio.get_running_loop().create_task(
            self._drive_one(migration), name=_driver_name(migration.id)
        )
        self._driving.add(task)
        task.add_done_callback(self._driving.discard)

    async def wait(self, migration_id: UUID, done: Callable[[Migration], bool]) -> Migration:
        """Read the journal until ``done``; keep a driver at work meanwhile."""
        with self.news.of(migration_id) as call:
            while True:
                call.news.clear()
                migration = await self.read(migration_id)
                if done(migration):
                    return migration
                self.carry(migration, call)
                await self.until_news(migration_id, call)

    async def until_news(self, migration_id: UUID, call: Call) -> None:
        """Until it is time to read the journal again."""
        beside = self.news.is_driven(migration_id)
        await wait(call.news, BESIDE_SECONDS if beside else POLL_SECONDS)

    def carry(self, migration: Migration, call: Call) -> None:
        """Keep a driver at work for a call that waits.

        Raises:
            asyncpg.PostgresError: this process cannot even ask for a lease.
        """
        refused = self._refused.pop(migration.id, None)
        if refused is not None and not migration.driver_alive:
            raise refused
        if call.may_drive:
            self.ensure(migration)

    async def read(self, migration_id: UUID) -> Migration:
        """The migration for a call that waits: a control database that restarts does not end it."""
        deadline = time.monotonic() + OUTAGE_SECONDS
        while True:
            try:
                return await self._migrations.get(migration_id)
            except Exception as error:
                if not may_pass(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS * 10)

    async def work(self, *, once: bool = False, poll_seconds: float = 1.0) -> None:
        """Drive whatever is due and has no live driver; ``once`` returns when nothing is left.

        A control database that is away is waited for, as the drivers do, unless ``once``. So is one
        that has let this process in before and does not any more: somebody will mend that.
        """
        was_let_in = False
        while True:
            try:
                due = [
                    each
                    for each in await self._migrations.get_active()
                    if each.state is not MigrationState.PAUSED and self._may_drive(each)
                ]
                was_let_in = True
                if once:
                    for migration in due:
                        self.stand_by(migration.id)
                        self.ensure(migration)
                else:
                    await self._take_up_a_fair_share(due)
                    await self._follow_routes_as_far_as_possible()
                    self._follow_ways_back()
            except Exception as error:
                waits = may_be_mended if was_let_in else may_pass
                if once or not waits(error):
                    raise
            if once:
                await asyncio.gather(*list(self._driving), return_exceptions=True)
                return
            await asyncio.sleep(poll_seconds)

    async def _take_up_a_fair_share(self, due: list[Migration]) -> None:
        """Begin with some of those that nobody drives; who drives many of them asks later.

        Of several processes that look at the same journal the first one would otherwise take
        everything; and of thousands that wait for a place each would be asked for all the time.
        """
        names = {task.get_name() for task in self._driving}
        ours = [each for each in due if _driver_name(each.id) in names]
        waiting = sum(not each.driver_alive for each in ours)
        idle = [
            each
            for each in due
            if _driver_name(each.id) not in names and self._leases.is_over(each)
        ]
        random.shuffle(idle)
        for begun, migration in enumerate(idle[: max(0, MOST_AT_A_LOOK - waiting)]):
            await asyncio.sleep((len(ours) + begun) * HESITATION_SECONDS)
            current = await self._migrations.get(migration.id)
            if not current.driver_alive and current.state is not MigrationState.PAUSED:
                self.ensure(current)

    def _follow_ways_back(self) -> None:
        """Begin to keep ways back current, until this process stops driving."""
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(
                self._follower.again_and_again(), name="eventsource-following"
            )

    @property
    def _follower(self) -> Follower:
        from eventsource.migration.driver.follower import Follower

        async def tables(migration: Migration) -> tuple[AnyTable, AnyTable]:
            source, target = self.stores_of(migration)
            return await of_store(source), await of_store(target)

        return Follower(
            self._migrations, tables, self._endpoints, self.knows, self._left_alone.leaves
        )

    async def _endpoints(self, migration: Migration) -> Endpoints:
        return await Endpoints.of(self._migrations, *self.stores_of(migration), self.kept)

    async def refuse_gone_back(self, way: WayBack, *, returns: bool = False) -> None:
        """Before it is ended or returned by; raises StoreGoneBackError where home has gone back."""
        await self._follower.refuse_gone_back(way, returns=returns)

    async def close_way_back(self, way_id: UUID) -> None:
        """Remove what an ended way back has at the stores, if this process can."""
        from eventsource.migration.driver.follower import CLOSING_SECONDS

        ways = WaysBack(self._migrations.pool)
        owner = uuid4()
        way = await ways.get(way_id)
        if way is None or way.state != "closing":
            return
        if not await ways.follow(way_id, owner, CLOSING_SECONDS, ["closing"]):
            return
        try:
            await self._follower.close(way, await self._migrations.get(way.migration_id))
        except BaseException as error:
            await ways.leave(way_id, owner, in_a_sentence(error))
            raise

    async def let_end(self, migration_id: UUID) -> None:
        """Wait for the driver's clean-up after a cutover, so that the caller may exit."""
        name = _driver_name(migration_id)
        ending = [task for task in self._driving if task.get_name() == name]
        if ending:
            await asyncio.wait(ending, timeout=2 * guard.TIDY_SECONDS)

    async def close(self) -> None:
        """Stop driving; durable state stays, and any process may go on."""
        self.news.close()
        self._stands_by_for.clear()
        others = (self._standing_by, self._following)
        stopping = [*self._driving, *(task for task in others if task is not None)]
        for task in stopping:
            task.cancel()
        for task in stopping:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        await self.kept.close()

    def ensure(self, migration: Migration) -> None:
        """Begin to drive a migration unless somebody does."""
        names = {task.get_name() for task in self._driving}
        if (
            self._leases.is_over(migration)
            and self._may_drive(migration)
            and _driver_name(migration.id) not in names
        ):
            self._begin(migration)

    async def _drive_one(self, migration: Migration) -> None:
        # Before it has the lease.
        driver_class = await loading.driver()
        source, target = self.stores_of(migration)
        find = partial(self._endpoints, migration)
        stores = migration.source_store_id, migration.target_store_id
        stale = migration.driver_expires_at if migration.driver_alive else None
        lease = Lease(migration.id, stale=stale)
        limits = partial(
            self._places.of, migration, self._migrations.pool, source.pool, target.pool
        )
        driver = driver_class(find, stores, self._migrations, lease, limits, self.news)
        try:
            await driver.run()
        except asyncpg.PostgresError as error:
            self._refused[migration.id] = error
            self.news.heard(migration.id)
        await self._follow_routes_as_far_as_possible()

    async def _follow_routes_as_far_as_possible(self) -> None:
        try:
            await self._follow_changed_routes()
            self._said.over("routes")
        except (*PASSING, asyncpg.PostgresError) as error:
            self._said.warn("routes", f"the route hook cannot be run: {in_a_sentence(error)}")

    async def follow_routes(self) -> list[PendingRoute]:
        """Run the route hook for each route that has changed; those that are left."""
        if self._route_hook is None:
            return []
        return await self._route_hook.roll_forward(self._migrations.pool)

    async def _follow_changed_routes(self) -> None:
        """The same, without a look at all routes at each poll."""
        if self._route_hook is None:
            return
        if time.monotonic() < self._all_routes_at:
            await self._route_hook.roll_forward(self._migrations.pool, lately=True)
            return
        left = await self._route_hook.roll_forward(self._migrations.pool)
        if all(each.error is not None for each in left):
            # What was not even tried is found by a look at all of them alone.
            self._all_routes_at = time.monotonic() + WHOLE_SECONDS

    async def refuse_other_places(self, migration: Migration) -> None:
        """Before anything is asked for; raises what `preflight.again.refuse` does."""
        if self.knows(migration):
            # Comes with a preflight, which most processes never make.
            from eventsource.migration.preflight import again

            await again.refuse(migration, self.stores_of(migration), self._migrations, self.kept)

    def store(self, store_id: str, given: EventStore) -> PostgreSQLEventStore:
        """``given``, if it is the router's store of that id; RoutingError when it cannot be."""
        store = self._router.store(store_id)
        if store is not given:
            raise RoutingError(
                f"the router knows another store as {store_id!r}; pass the router's own"
            )
        if not isinstance(store, PostgreSQLEventStore):
            raise RoutingError(f"store {store_id!r} is not in PostgreSQL and cannot take part")
        return store

    def stores_of(self, migration: Migration) -> tuple[PostgreSQLEventStore, PostgreSQLEventStore]:
        """Source and target; RoutingError where this process does not know them."""
        return self.store_of(migration.source_store_id), self.store_of(migration.target_store_id)

    def store_of(self, store_id: str) -> PostgreSQLEventStore:
        """The store of an id; RoutingError where this process does not know it."""
        return self.store(store_id, self._router.store(store_id))

    def _may_drive(self, migration: Migration) -> bool:
        return self.knows(migration) and not self._left_alone.leaves(migration)

    def knows(self, migration: Migration) -> bool:
        """Whether the router has both stores."""
        known = self._router.stores
        return migration.source_store_id in known and migration.target_store_id in known


def _driver_name(migration_id: UUID) -> str:
    return f"eventsource-driver-{migration_id}"
