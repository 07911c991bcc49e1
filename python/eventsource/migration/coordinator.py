"""The operator's handle on migrations: start, watch, pause, cut over, abort, from any process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventsource import failpoints
from eventsource.connections import both
from eventsource.migration.background import POLL_SECONDS, BackgroundDrivers
from eventsource.migration.consistency import lag
from eventsource.migration.driver import loading
from eventsource.migration.errors import InvalidStateTransitionError, MigrationError
from eventsource.migration.event_table import of_store
from eventsource.migration.journaled import lag as layout_lag
from eventsource.migration.journaled import preflight as layout_preflight
from eventsource.migration.journaled import tenants as layout_tenants
from eventsource.migration.models import (
    Migration,
    MigrationConfig,
    StoredTenant,
    TenantRouting,
)
from eventsource.migration.moving import Move, Wish
from eventsource.migration.operations.cleanups import Cleanups
from eventsource.migration.operations.listings import Listings
from eventsource.migration.operations.reports import Reports
from eventsource.migration.operations.ways_back import Returns
from eventsource.migration.preflight import admission
from eventsource.migration.preflight.findings import Findings
from eventsource.migration.recovery.recovery import Recovery, UndoingAndRepairing
from eventsource.migration.states import MigrationState
from eventsource.migration.tables import identities, tenants
from eventsource.stores.interface import EventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.tenant_ids import TenantId, checked

if TYPE_CHECKING:
    from datetime import datetime

    from eventsource.migration.moving import Begun, Permit
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.migration.routing.route_hook import PendingRoute, RouteHook
    from eventsource.migration.routing.router import TenantStoreRouter

_S = MigrationState


#: Preflights that one process makes at the same time.
PREFLIGHTS_AT_ONCE = 2


class MigrationCoordinator(UndoingAndRepairing, Returns, Cleanups, Listings, Reports):
    """Starts migrations and carries them on.

    It remembers nothing about them: every call reads the control database, and any process with
    the same stores may make it. A driver works in the background of whichever process holds the
    lease; when that process dies, the next call here, or :meth:`work`, takes the migration up.

    Args:
        migration_repo: the journal.
        routing_repo: the routes.
        router: knows the stores by id.
        config: how migrations started here are carried out.
        route_hook: a statement for the routing table of another library, run for each route that
            changes, by whichever process drives.
    """

    def __init__(
        self,
        migration_repo: PostgreSQLMigrationRepository,
        routing_repo: PostgreSQLRoutingRepository,
        router: TenantStoreRouter,
        config: MigrationConfig | None = None,
        *,
        route_hook: RouteHook | None = None,
    ) -> None:
        self._migrations = migration_repo
        self._routes = routing_repo
        self._router = router
        self._config = config or MigrationConfig()
        self._drivers = BackgroundDrivers(migration_repo, router, route_hook)
        self._recovery = Recovery(self._drivers, migration_repo, routing_repo, router, self._config)
        self._examining = asyncio.Semaphore(PREFLIGHTS_AT_ONCE)

    async def start_migration(
        self,
        tenant_id: TenantId,
        source_store: EventStore,
        target_store: EventStore,
        source_store_id: str,
        target_store_id: str,
        *,
        operator: str | None = None,
        until: datetime | None = None,
    ) -> Migration:
        """Record the migration durably and begin to drive it in the background.

        Args:
            until: when it is paused at a chunk for the next :meth:`move`, in every process.

        Raises:
            PreflightError: it was refused; nothing was changed.
            MigrationAlreadyExistsError: the tenant already has an active migration.
            RoutingError: a store id is unknown, or the tenant lives elsewhere.
        """
        source = self._drivers.store(source_store_id, source_store)
        tenant_id = admission.tenant_of(tenant_id, source)
        target = self._drivers.store(target_store_id, target_store)
        generation = await admission.generation_of(
            self._migrations, self._routes, tenant_id, source_store_id,
            default_store_id=admission.unrouted_home(
                source, source_store_id, self._router.default_store_id
            ),
        )  # fmt: skip
        await self.refuse_beside_a_way_back(tenant_id)
        # The control database was looked at for the route.
        findings, _ = await both(
            self._examine(tenant_id, source, target, with_control=False), loading.driver()
        )
        findings.raise_if_refused()
        assert findings.tables is not None
        here, there = await admission.places_of(tenant_id, generation, *findings.tables)
        await failpoints.reach("preflight.passed")
        migration = await self._migrations.create(
            migration_id=uuid4(),
            tenant_id=tenant_id,
            source_store_id=source_store_id,
            target_store_id=target_store_id,
            config=self._config,
            generation=generation,
            operator=operator,
            source_identity=here,
            target_identity=there,
            pause_at=until,
        )
        await failpoints.reach("start.committed")
        self._drivers.start(migration)
        return migration

    async def preflight(
        self, tenant_id: TenantId, source: PostgreSQLEventStore, target: PostgreSQLEventStore
    ) -> Findings:
        """Everything that would refuse this move, without changing anything."""
        findings = await self._examine(tenant_id, source, target, with_control=True)
        if findings.problems and (known := await self._known_way_back(tenant_id)):
            # The stores alone say that nobody knows of it.
            return Findings(problems=known)
        return findings

    async def _examine(
        self,
        tenant_id: TenantId,
        source: PostgreSQLEventStore,
        target: PostgreSQLEventStore,
        *,
        with_control: bool,
    ) -> Findings:
        is_layout = source.layout is not None or target.layout is not None
        # Each has connections of its own: started together, they would take all there are.
        async with self._examining:
            return await admission.examine(
                self._migrations, tenant_id, source, target, config=self._config,
                look=layout_preflight.look if is_layout else None, kept=self._drivers.kept,
                with_control=with_control,
            )  # fmt: skip

    async def follow_routes(self) -> list[PendingRoute]:
        """Run the route hook for each route that has changed; returns those that are left.

        Drivers and `work` do so by themselves; nothing is done without a hook.
        """
        return await self._drivers.follow_routes()

    async def get_migration(self, migration_id: UUID) -> Migration:
        """The migration as the journal knows it; MigrationNotFoundError when there is none."""
        return await self._migrations.get(migration_id)

    async def get_active_migrations(self) -> list[Migration]:
        """Every migration that is not over, oldest first."""
        return await self._migrations.get_active()

    async def get_migrations_by_tenant(self, tenant_id: TenantId) -> list[Migration]:
        """The tenant's migrations, oldest first."""
        return await self._migrations.get_by_tenant(checked(tenant_id))

    async def routes(self) -> list[TenantRouting]:
        """Every route, by tenant; a tenant that is not among them lives in the default store."""
        return await self._routes.get_all()

    async def tenants(
        self, store_id: str, only: Sequence[TenantId] | None = None
    ) -> list[StoredTenant]:
        """The tenants with rows in a store, largest first: which one shall move?

        Reads the whole table once; of some tenants ``only`` what the index says and some rows.
        Nobody waits for it.

        Raises:
            RoutingError: this process does not know the store.
            MigrationError: it is no PostgreSQL store.
        """
        store = self._router.store(store_id)
        if not isinstance(store, PostgreSQLEventStore):
            raise MigrationError(
                f"store {store_id!r} is of type {type(store).__name__}, whose tenants cannot be"
                " counted; name a PostgreSQLEventStore"
            )
        if store.layout is not None:
            found = await layout_tenants.sizes(await of_store(store), only)
        else:
            found = await tenants.sizes(store.pool, store.table, only)
        routes = await self._routes.get_routings([tenant for tenant, _, _ in found])
        return [StoredTenant(*each, routes.get(each[0])) for each in found]

    async def get_sync_lag(self, migration_id: UUID) -> int:
        """The tenant's events that the source shows and the target does not hold yet.

        Raises:
            InvalidStateTransitionError: it was rolled back, and the target is to hold none.
        """
        migration = await self._migrations.get(migration_id)
        if migration.state is _S.MIGRATED:
            return 0
        if migration.state is _S.ROLLED_BACK:
            raise InvalidStateTransitionError(migration_id, migration.state, "have a lag")
        source, target = [await of_store(store) for store in self._drivers.stores_of(migration)]
        await identities.check(migration, source, target)
        if source.layout is not None:
            return await layout_lag.of(source, target, migration)
        return await lag.sync_lag(source, target, migration)

    async def pause_migration(
        self, migration_id: UUID, *, operator: str | None = None
    ) -> Migration:
        """Stop copying at the next chunk and stay stopped until resumed; returns when it has.

        What a move has paused for the next one is then resumed by a person alone.

        Raises:
            InvalidStateTransitionError: nothing is under way that could pause.
            ProtocolVersionError: a newer version carries it on, as of every call that changes one.
        """
        migration = await self._migrations.get_to_change(migration_id)
        if migration.state is _S.PAUSED and not migration.parked:
            return migration
        if not await self._migrations.request_pause(migration_id, operator):
            migration = await self._migrations.get(migration_id)
            raise InvalidStateTransitionError(migration_id, migration.state, "pause")
        migration = await self._drivers.wait(
            migration_id, lambda m: not m.pause_requested or m.state.is_final
        )
        if migration.state is not _S.PAUSED:
            resumed = "stay paused: it was resumed meanwhile"
            requested = "pause" if migration.state.is_final else resumed
            raise InvalidStateTransitionError(migration_id, migration.state, requested)
        return migration

    async def resume_migration(
        self, migration_id: UUID, *, operator: str | None = None, until: datetime | None = None
    ) -> Migration:
        """Go on where it was paused; also takes up a migration whose driver is gone.

        Returns when it is being driven, by this process or, when this one does not know its stores,
        by whichever one works. While this process lives it takes the migration up again whenever
        the driver of that moment turns out to be dead.

        Args:
            until: as for :meth:`move`; without it a time that a move has set counts no more.

        Raises:
            InvalidStateTransitionError: the migration is over, or its abort has begun; or it has
                failed, and an older version began it, which did not record where its stores are.
            MigrationAlreadyExistsError: the tenant has another active one.
            RoutingError: the tenant's route is no longer that of the source.
            StoreMismatchError: a store of it is another place in this process.
        """
        migration = await self._migrations.get_to_change(migration_id)
        if not migration.may_resume:
            raise InvalidStateTransitionError(migration_id, migration.state, "resume")
        if migration.state is _S.FAILED and None in (
            migration.source_identity,
            migration.target_identity,
        ):
            raise InvalidStateTransitionError(
                migration_id,
                "failed, and was begun without a record of which places its stores are,",
                f"be resumed: `eventsource-migrate abort {migration_id}`, and begin again",
            )
        await self._drivers.refuse_other_places(migration)
        # Before it goes on: who asks for it may die in between.
        await self._migrations.set_pause_at(migration_id, until, operator)
        if migration.state in (_S.PAUSED, _S.FAILED):
            assert migration.paused_from is not None
            migration = await self._migrations.transition(
                migration, migration.paused_from, operator=operator
            )
            await failpoints.reach("resume.committed")
        self._drivers.stand_by(migration_id)
        if not self._drivers.knows(migration):
            return migration
        self._drivers.ensure(migration)
        return await self._drivers.wait(
            migration_id,
            lambda m: m.driver_alive or m.is_waiting or m.state is _S.PAUSED or m.state.is_final,
        )

    async def set_rate(
        self,
        migration_id: UUID,
        max_events_per_second: float | None,
        *,
        operator: str | None = None,
    ) -> Migration:
        """Change the limit of the copy, also when another process drives it; None lifts it.

        Durable when this returns; a driver that is at work hears of it at once. The last pass,
        which writers wait for, is never limited.

        Raises:
            ValueError: no rate that a MigrationConfig takes.
            InvalidStateTransitionError: the migration is over.
        """
        MigrationConfig(max_events_per_second=max_events_per_second)
        await self._migrations.get_to_change(migration_id)
        changed = await self._migrations.set_rate(migration_id, max_events_per_second, operator)
        migration = await self._migrations.get(migration_id)
        if not changed:
            raise InvalidStateTransitionError(migration_id, migration.state, "be throttled")
        return migration

    async def move(
        self,
        tenant_id: TenantId,
        source_store_id: str,
        target_store_id: str,
        *,
        operator: str | None = None,
        until: datetime | None = None,
        permit: Permit | None = None,
        begun: Begun | None = None,
    ) -> Migration | None:
        """Move the tenant, whatever has been done of it: start, join or go on, then cut over.

        May be called any number of times, from any number of processes at once: one migration
        comes of it. So a queue that delivers at least once can carry it, and so can cron. A tenant
        that lives in the target already is done: its last migration is the answer, None when it
        has never moved.

        Args:
            until: when it has to stop: the migration is then paused at a chunk, for the next call.
                It is written down first, so that every process that drives the migration pauses it,
                by the clock of the control database. The next call sets its own.
            permit: is awaited in the transaction that asks for the cutover, with its connection and
                the migration. A RetryLaterError of it pauses the migration likewise.
            begun: is awaited with the migration before it is carried on.

        Raises:
            RetryLaterError: it can succeed later; every other error is final until somebody has
                done something (PreflightError, ConsistencyError, MigrationPausedError and others).
        """
        stores = self._router.store(source_store_id), self._router.store(target_store_id)
        ids = source_store_id, target_store_id
        wish = Wish(checked(tenant_id), *ids, operator, until, permit, begun)
        start = partial(
            self.start_migration, wish.tenant_id, *stores, *ids, operator=operator, until=until
        )
        resume = partial(self.resume_migration, operator=operator, until=until)
        home = self._router.default_store_id
        move = Move(wish, self._migrations, self._routes, self._drivers, home, start, resume)
        return await move.to_the_end()

    async def stream_status(self, migration_id: UUID) -> AsyncIterator[Migration]:
        """The migration now and after every change, until it is over."""
        last: Migration | None = None
        while True:
            migration = await self._drivers.read(migration_id)
            if migration != last:
                yield migration
                last = migration
            if migration.state.is_final:
                return
            await asyncio.sleep(POLL_SECONDS * 2)

    async def work(self, *, once: bool = False, poll_seconds: float = 1.0) -> None:
        """Drive whatever is due and has no live driver; ``once`` returns when nothing is left.

        A control database that is away is waited for, as the drivers do, unless ``once``.
        """
        await self._drivers.work(once=once, poll_seconds=poll_seconds)

    async def close(self) -> None:
        """Stop driving; durable state stays, and any process may go on."""
        await self._drivers.close()
