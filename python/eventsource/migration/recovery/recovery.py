"""What an operator may ask for after a disaster, with the stores of this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration import failures
from eventsource.migration.connections.driver_connections import Endpoints
from eventsource.migration.errors import (
    InvalidStateTransitionError,
    MigrationError,
    StoreGoneBackError,
)
from eventsource.migration.repositories import restored
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.states import MigrationState
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from eventsource.migration.background import BackgroundDrivers
    from eventsource.migration.models import Migration, MigrationConfig
    from eventsource.migration.recovery.report import RepairReport, StrandedEvent, StrandedRow
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.migration.repositories.ways_back import WayBack
    from eventsource.migration.routing.router import TenantStoreRouter

_S = MigrationState


class Recovery:
    """The coordinator's part for the time after a restore.

    Each of its ways is loaded when it is asked for, which is seldom.
    """

    def __init__(
        self,
        drivers: BackgroundDrivers,
        migrations: PostgreSQLMigrationRepository,
        routes: PostgreSQLRoutingRepository,
        router: TenantStoreRouter,
        config: MigrationConfig,
    ) -> None:
        self._drivers = drivers
        self._migrations = migrations
        self._routes = routes
        self._router = router
        self._config = config

    async def repair(self, dry_run: bool, put_back: bool, operator: str | None) -> RepairReport:
        """See ``MigrationCoordinator.repair``."""
        from eventsource.migration.recovery.reconciling import reconcile_migration
        from eventsource.migration.recovery.repair import Repair

        async def reconcile(
            migration_id: UUID, put_back: bool
        ) -> Sequence[StrandedEvent | StrandedRow]:
            migration = await self._migrations.get(migration_id)
            source, target = self._drivers.stores_of(migration)
            return await reconcile_migration(
                self._migrations, migration, source, target, put_back=put_back, operator=operator
            )

        async def reconcile_way(way_id: UUID) -> Sequence[StrandedEvent]:
            return await self._reconcile_way(way_id, operator)

        stores = {
            name: store
            for name, store in self._router.stores.items()
            if isinstance(store, PostgreSQLEventStore)
        }
        repair = Repair(
            stores, self._router.default_store_id, self._migrations, self._routes, reconcile,
            self._clean, reconcile_way, self._config, operator, put_back,
        )  # fmt: skip
        return await (repair.report() if dry_run else repair.run())

    async def _clean(self, migration_id: UUID) -> None:
        """Wait for the abort of a migration that was over."""
        await self._drivers.wait(
            migration_id,
            lambda m: m.state is _S.ROLLED_BACK or m.abort_requested is None,
        )
        migration = await self._migrations.get(migration_id)
        if migration.state is not _S.ROLLED_BACK:
            raise failures.recorded(migration) or MigrationError(
                f"the abort of migration {migration_id} did not come to its end:"
                f" {migration.error_message}"
            )

    async def abort_without_target(
        self, migration: Migration, reason: str, operator: str | None
    ) -> Migration:
        """See ``MigrationCoordinator.abort_migration``."""
        from eventsource.migration.recovery.lost_target import abort_without_target

        source = self._router.store(migration.source_store_id)
        source = self._drivers.store(migration.source_store_id, source)
        target = self._router.stores.get(migration.target_store_id)
        return await abort_without_target(
            self._migrations, migration, source,
            target if isinstance(target, PostgreSQLEventStore) else None,
            reason=reason, operator=operator,
        )  # fmt: skip

    async def abort_again_if_it_is_back(
        self, migration: Migration, reason: str, operator: str | None
    ) -> None:
        """A store that has gone back has the fence of a migration again that was aborted since."""
        from eventsource.migration.recovery.lost_target import is_still_somewhere

        if migration.state is not _S.ROLLED_BACK or not self._drivers.knows(migration):
            return
        source, target = self._drivers.stores_of(migration)
        if not await is_still_somewhere(migration, source, target):
            return
        await restored.request_abort_again(self._migrations.pool, migration.id, reason, operator)
        await self._clean(migration.id)

    async def rebind(self, migration: Migration, store_id: str, operator: str | None) -> Migration:
        """See ``MigrationCoordinator.rebind_migration``."""
        from eventsource.migration.recovery import rebinding
        from eventsource.migration.recovery.reconciling import reconcile_migration

        stores = self._drivers.stores_of(migration)
        way = await WaysBack(self._migrations.pool).of_migration(migration.id)
        if way is not None and way.state == "returning" and way.return_state != _S.MIGRATED:
            raise InvalidStateTransitionError(
                migration.id,
                f"returning (migration {way.id})",
                "be bound to another place: abort the return first"
                f" (`eventsource-migrate abort {way.id}`)",
            )
        if await rebinding.rebind(self._migrations, migration, stores, store_id, operator):
            await reconcile_migration(
                self._migrations, await self._migrations.get(migration.id), *stores,
                operator=operator,
            )  # fmt: skip
        if migration.state is _S.MIGRATED and way is not None and way.state == "standby":
            await self._close(way, store_id, operator)
        return await self._migrations.get(migration.id)

    async def _close(self, way: WayBack, store_id: str, operator: str | None) -> None:
        """Nobody returns to, or from, another place; what the old store alone has goes home."""
        try:
            await self._drivers.refuse_gone_back(way)
        except StoreGoneBackError:
            await self._reconcile_way(way.id, operator)
        reason = f"store {store_id!r} has become another place"
        await WaysBack(self._migrations.pool).end(way.id, reason, now=True, operator=operator)
        await self._drivers.close_way_back(way.id)

    async def _reconcile_way(self, way_id: UUID, operator: str | None) -> Sequence[StrandedEvent]:
        from eventsource.migration.driver.follower import reversed_
        from eventsource.migration.recovery.reconciled_way import reconcile_way_back

        way = await WaysBack(self._migrations.pool).get(way_id)
        assert way is not None
        move = await self._migrations.get(way.migration_id)
        stores = self._drivers.stores_of(move)
        there = reversed_(await Endpoints.of(self._migrations, *stores, self._drivers.kept))
        return await reconcile_way_back(self._migrations, there, way, move, operator)


class UndoingAndRepairing:
    """The calls of a coordinator that undo a migration, or repair what a restore has left."""

    _drivers: BackgroundDrivers
    _migrations: PostgreSQLMigrationRepository
    _recovery: Recovery

    async def abort_migration(
        self,
        migration_id: UUID,
        *,
        reason: str = "aborted by operator",
        operator: str | None = None,
        without_target: bool = False,
    ) -> Migration:
        """Remove what was copied and leave the source as it was; twice is a no-op.

        Args:
            without_target: the target is gone for good. Only while nothing was decided.

        Raises:
            InvalidStateTransitionError: the tenant has moved already.
            StoreGoneBackError: a decision was made that the source has forgotten; or, without a
                target, the source has gone back. Nothing was changed.
            MigrationError: without a target: it is there, or a driver is at work.
        """
        migration = await self._migrations.get_to_change(migration_id)
        if without_target:
            return await self._recovery.abort_without_target(migration, reason, operator)
        await self._drivers.refuse_other_places(migration)
        await self._recovery.abort_again_if_it_is_back(migration, reason, operator)
        if await self._migrations.request_abort(migration_id, reason, operator):
            await self._drivers.wait(
                migration_id,
                lambda m: m.state in (_S.ROLLED_BACK, _S.MIGRATED) or m.abort_requested is None,
            )
        migration = await self._migrations.get(migration_id)
        if migration.state is not _S.ROLLED_BACK and (error := failures.recorded(migration)):
            raise error
        if migration.state is _S.FAILED:
            raise MigrationError(f"the abort did not come to its end: {migration.error_message}")
        if migration.state is not _S.ROLLED_BACK:
            raise InvalidStateTransitionError(migration_id, migration.state, "be aborted")
        return migration

    async def repair(
        self, *, dry_run: bool = False, put_back: bool = False, operator: str | None = None
    ) -> RepairReport:
        """After a restore or a failover: bring everything in line with what the stores say.

        Routes, journal and mapping are made again from the fences; a store that has forgotten that
        a tenant has left is reminded; a migration whose source has gone back is reconciled. Nothing
        is deleted but what is kept elsewhere, and no decision is undone.

        Args:
            dry_run: only say what would be changed.
            put_back: append events that are only where their tenant does not live to where it
                does, if their streams have not gone on there.

        Raises:
            MigrationError: a driver is at work; nothing was changed.
        """
        return await self._recovery.repair(dry_run, put_back, operator)

    async def rebind_migration(
        self, migration_id: UUID, store_id: str, *, operator: str | None = None
    ) -> Migration:
        """Go on with a store that has become another place: a restored dump, another server.

        A target is compared whole before the cutover; a source is reconciled. Of a finished
        migration the way back is closed.

        Raises:
            InvalidStateTransitionError: the migration is neither paused nor finished, or its tenant
                is returning.
            RoutingError: it has no such store.
            StoreMismatchError: nothing of this migration is there; nothing was changed.
        """
        migration = await self._migrations.get_to_change(migration_id)
        return await self._recovery.rebind(migration, store_id, operator)
