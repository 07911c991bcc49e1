"""Migrations by what is asked of them, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.repositories import listing
from eventsource.migration.repositories.listing import MigrationCount, MigrationPage, Wanted
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from datetime import datetime

    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.tenant_ids import TenantId


class Listings:
    """Of the coordinator: which migrations there are, however many those are."""

    _migrations: PostgreSQLMigrationRepository

    async def list_migrations(
        self,
        *,
        states: Iterable[MigrationState] = (),
        active: bool | None = None,
        tenant_id: TenantId | None = None,
        source_store_id: str | None = None,
        target_store_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        operator: str | None = None,
        limit: int = listing.PAGE,
        after: UUID | None = None,
    ) -> MigrationPage:
        """A page of the migrations for which all that is given is true, newest first.

        Args:
            states: one of them; none is any.
            active: True for those that are not over, False for those that are.
            since, until: of their beginning, the first inclusive.
            operator: who has started them.
            limit: how many at most, from 1 to 10,000.
            after: a page's ``next``, for those that follow it.

        Raises:
            ValueError: a time without a time zone, or another limit.
            MigrationNotFoundError: there is no migration ``after``.
        """
        wanted = Wanted(
            tuple(states), active, tenant_id, source_store_id, target_store_id, since, until,
            operator,
        )  # fmt: skip
        return await listing.page(self._migrations.pool, wanted, limit=limit, after=after)

    async def count_migrations(
        self,
        *,
        states: Iterable[MigrationState] = (),
        active: bool | None = None,
        tenant_id: TenantId | None = None,
        source_store_id: str | None = None,
        target_store_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        operator: str | None = None,
    ) -> list[MigrationCount]:
        """How many there are by state, source and target; arguments as of `list_migrations`."""
        wanted = Wanted(
            tuple(states), active, tenant_id, source_store_id, target_store_id, since, until,
            operator,
        )  # fmt: skip
        return await listing.counts(self._migrations.pool, wanted)
