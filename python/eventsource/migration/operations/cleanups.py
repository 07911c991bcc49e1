"""Removing what a tenant that has moved has left."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.connections.driver_connections import close_all, open_table
from eventsource.migration.errors import InvalidStateTransitionError, MigrationError
from eventsource.migration.event_table import compared, of_store
from eventsource.migration.operations.ways_back import what_is_left_of
from eventsource.migration.preflight import rights
from eventsource.migration.repositories.ways_back import WayBack, WaysBack
from eventsource.migration.states import MigrationState
from eventsource.migration.steps.cleanup import Cleanup
from eventsource.migration.tables import fences, identities
from eventsource.tenant_ids import TenantId, as_uuid

if TYPE_CHECKING:
    from eventsource.migration.background import BackgroundDrivers
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """What a clean-up removed, or would remove.

    Attributes:
        store_id: where the old rows are.
        home_id: where the tenant lives, whose events they were compared with.
        rows, bytes: what was there, without indexes.
        deleted: how many of the rows were removed; 0 of a dry run.
        not_yet: of a dry run, why they would be kept now, and what ends that.
    """

    migration_id: UUID
    tenant_id: TenantId
    store_id: str
    home_id: str
    rows: int
    bytes: int
    deleted: int
    not_yet: str | None = None


class Cleanups:
    """Of the coordinator: what removes old rows."""

    _migrations: PostgreSQLMigrationRepository
    _routes: PostgreSQLRoutingRepository
    _drivers: BackgroundDrivers

    async def cleanup(
        self,
        migration_id: UUID,
        *,
        dry_run: bool = False,
        backed_up: bool = False,
        now: bool = False,
        max_rows_per_second: float | None = None,
        operator: str | None = None,
        seen: Callable[[str, int], None] = lambda what, rows: None,
    ) -> CleanupResult:
        """Remove the rows that the tenant has left in the source of a finished migration.

        Every one of them is compared with the store where the tenant lives now, by event id and in
        all fields, before the first is deleted and again right before its own portion. A call after
        one that was interrupted goes on.

        Args:
            dry_run: compare and count, and delete nothing.
            backed_up: there is a backup of the tenant's store that is younger than the flip; after
                this it cannot be repaired from the source.
            now: do not wait until the time of ``keep_way_back`` has passed.
            seen: called with what is being done and how many rows were.

        Raises:
            ConsistencyError: a row that the tenant's home does not hold; nothing more is deleted.
            InvalidStateTransitionError: the migration has not moved the tenant.
            MigrationError: it is too early, the tenant lives there, or nothing says that there is a
                backup.
        """
        migration = await self._migrations.get_to_change(migration_id)
        if migration.state is not MigrationState.MIGRATED:
            raise InvalidStateTransitionError(migration_id, migration.state, "be cleaned up")
        await self._refuse_layout(migration)
        home_id = await self._home_of(migration)
        way = await WaysBack(self._migrations.pool).of_migration(migration_id)
        # By the clock that its end was written by: that of this machine may be another.
        at = await self._migrations.pool.fetchval("select now()")
        not_yet = _kept(migration, way, at, now=now)
        if not dry_run:
            _refuse_early(migration, not_yet, backed_up=backed_up)
        async with self._opened(migration, home_id, max_rows_per_second, seen) as work:
            found = await work.measure()
            compared_rows = await work.compare()
            deleted = 0
            if not dry_run and compared_rows:
                details = {"store": migration.source_store_id, "home": home_id,
                           "rows": found.rows, "bytes": found.bytes}  # fmt: skip
                await self._migrations.audit(migration_id, "cleanup_began", details, operator)
                deleted = await work.delete()
                await self._migrations.audit(
                    migration_id, "cleaned_up", {**details, "deleted": deleted}, operator
                )
        return CleanupResult(
            migration_id, migration.tenant_id, migration.source_store_id, home_id,
            found.rows, found.bytes, deleted, not_yet,
        )  # fmt: skip

    async def _refuse_layout(self, migration: Migration) -> None:
        """Before its age and a backup are asked for: neither would help."""
        if self._drivers.store_of(migration.source_store_id).layout is not None:
            raise MigrationError(
                f"store {migration.source_store_id!r} has tables of another library, which are not"
                f" cleaned up: {fences.deleting_old_rows(migration.id)}"
            )

    async def _home_of(self, migration: Migration) -> str:
        routing = await self._routes.get_routing(migration.tenant_id)
        if routing is None:
            raise MigrationError(
                f"tenant {migration.tenant_id} has no route any more, so nobody knows where it"
                " lives; nothing is deleted"
            )
        if routing.store_id == migration.source_store_id:
            back = next(
                (
                    each.id
                    for each in reversed(await self._migrations.get_by_tenant(migration.tenant_id))
                    if each.state is MigrationState.MIGRATED
                    and each.target_store_id == routing.store_id
                ),
                None,
            )
            cleanup = f"`eventsource-migrate cleanup {back}`"
            way_out = f"; its rows in the other store go with {cleanup}" if back else ""
            raise MigrationError(
                f"tenant {migration.tenant_id} lives in store {routing.store_id!r} again, whose"
                f" rows are the only ones that count{way_out}"
            )
        return routing.store_id

    @contextlib.asynccontextmanager
    async def _opened(
        self,
        migration: Migration,
        home_id: str,
        rate: float | None,
        seen: Callable[[str, int], None],
    ) -> AsyncIterator[Cleanup]:
        source, target = self._drivers.stores_of(migration)
        home = await of_store(self._drivers.store_of(home_id))
        await identities.check(migration, await of_store(source), await of_store(target))
        fence = await fences.read(home, migration.tenant_id)
        if fence is None or fence.state != "open":
            raise MigrationError(
                f"store {home_id!r}, where the route of tenant {migration.tenant_id} leads, is not"
                f" open for it ({fence.state if fence else 'no fence'}); nothing is deleted"
            )
        old = await open_table(await source.address())
        try:
            await rights.refuse_functions_of_others(old)
            own = home_id == migration.target_store_id and migration.position_offset is not None
            yield Cleanup(
                old, home, migration.source_store_id, home_id,
                as_uuid(migration.tenant_id), (await compared(old, home)).compared,
                migration.position_offset if own else None,
                migration.fence_position or 0, rate, seen,
            )  # fmt: skip
        finally:
            await close_all([old.connection])


def _kept(migration: Migration, way: WayBack | None, at: datetime, *, now: bool) -> str | None:
    """Why the old rows are kept at a moment, and what ends that."""
    if way is not None and way.state == "returning":
        return (
            f"the tenant is about to return (migration {way.id}), and needs the old rows; wait for"
            f" it: `eventsource-migrate status {way.id} --watch`"
        )
    if way is not None and way.shown in ("expired", "closing"):
        return f"{what_is_left_of(migration.id)}; the old rows may go then"
    if way is not None and way.state in ("preparing", "standby"):
        return (
            f"the way back of migration {migration.id} is {way.shown}, and needs the old rows:"
            f" `eventsource-migrate way-back close {migration.id}` ends it"
        )
    # Who has closed it has said that the tenant does not come back.
    now = now or (way is not None and way.state == "closed")
    assert migration.completed_at is not None
    until = migration.completed_at + timedelta(seconds=migration.config.keep_way_back)
    if not now and at < until:
        return (
            f"the old rows of migration {migration.id} are kept until"
            f" {until:%Y-%m-%d %H:%M} UTC (keep_way_back); to remove them before, say --now"
        )
    return None


def _refuse_early(migration: Migration, not_yet: str | None, *, backed_up: bool) -> None:
    if not_yet is not None:
        raise MigrationError(not_yet)
    if not backed_up:
        raise MigrationError(
            f"without the old rows store {migration.target_store_id!r} cannot be repaired any"
            f" more: make sure that there is a backup of it that is younger than"
            f" {migration.completed_at:%Y-%m-%d %H:%M:%S} UTC, and say --backed-up"
        )
