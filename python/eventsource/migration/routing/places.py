"""How far a subscription has come with each tenant, and in which store it reads it."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.states import MigrationState
from eventsource.migration.subscriptions.positions import PositionMapper
from eventsource.tenant_ids import TenantId, as_uuid

if TYPE_CHECKING:
    from eventsource.migration.models import Migration, TenantRouting
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.subscriptions.checkpoints import CheckpointRepository

_log = logging.getLogger("eventsource.subscriptions")


class Places:
    """Where each tenant is read and up to where it has been handled.

    A tenant that has or had a route begins in *joining*: it is read alone until it has reached the
    feed of its store, because its events may lie below what the feed has passed. All others are
    read with the feed of the default store.

    Args:
        keep_apart: read every tenant alone; there is no feed.
    """

    def __init__(
        self,
        name: str,
        checkpoints: CheckpointRepository,
        migrations: PostgreSQLMigrationRepository,
        store_ids: Iterable[str],
        default_store_id: str,
        *,
        keep_apart: bool,
    ) -> None:
        self._name = name
        self._checkpoints = checkpoints
        self._migrations = migrations
        self._mapper = PositionMapper(PostgreSQLPositionMappingRepository(migrations.pool))
        self._default = default_store_id
        self._keep_apart = keep_apart
        self._homes: dict[UUID, str] = {}
        self._positions: dict[tuple[str, UUID], int] = {}
        self._unknown: set[tuple[TenantId, str]] = set()
        self._locks: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.joining: dict[str, set[UUID]] = {store_id: set() for store_id in store_ids}
        #: Every event of the store up to here is handled, but for tenants that are joining.
        self.passed: dict[str, int] = dict.fromkeys(self.joining, 0)

    def home(self, tenant_id: UUID) -> str:
        """The store in which the tenant is read."""
        return self._homes.get(tenant_id, self._default)

    def position(self, store_id: str, tenant_id: UUID) -> int:
        """The last position of the tenant that was handled there, 0 before the first."""
        return self._positions.get((store_id, tenant_id), 0)

    def handled(self, store_id: str, tenant_id: UUID, position: int) -> None:
        """Remember; `save` makes it durable."""
        self._positions[store_id, tenant_id] = position

    def turn(self, tenant_id: UUID) -> asyncio.Lock:
        """Held while an event of the tenant is handled and while the tenant changes its store."""
        return self._locks[tenant_id]

    async def save(self, store_id: str, tenant_id: UUID) -> None:
        """Make the tenant's checkpoint what was handled."""
        await self._checkpoints.save(
            self._name, store_id, self.position(store_id, tenant_id), tenant_id
        )

    async def pass_on(self, store_id: str, position: int) -> None:
        """The feed of the store is handled up to here; the tenants' checkpoints are saved."""
        await self._checkpoints.save(self._name, store_id, position)
        self.passed[store_id] = position

    async def load(self, routes: Iterable[TenantRouting]) -> None:
        """Begin from the checkpoints, each tenant where its route says.

        Before any feed goes on: it would pass events of tenants that have moved meanwhile, and
        where they stood would be lost.
        """
        kept: dict[UUID, dict[str, int]] = defaultdict(dict)
        self.passed = dict.fromkeys(self.joining, 0)
        self._positions.clear()
        for checkpoint in await self._checkpoints.list_checkpoints(self._name):
            if checkpoint.tenant_id is not None:
                kept[checkpoint.tenant_id][checkpoint.store_id] = checkpoint.position
                key = checkpoint.store_id, checkpoint.tenant_id
                self._positions[key] = checkpoint.position
            elif checkpoint.store_id in self.passed:
                self.passed[checkpoint.store_id] = checkpoint.position
        for tenants in self.joining.values():
            tenants.clear()
        self._homes.clear()
        for route in routes:
            if self._is_known(route):
                await self._place(route, kept[as_uuid(route.tenant_id)])

    async def _place(self, route: TenantRouting, handled: dict[str, int]) -> None:
        tenant_id, home = as_uuid(route.tenant_id), route.store_id
        moves = await self._moves(tenant_id)
        if not handled:
            # A subscription that read the whole store until now has read this tenant with it.
            first = moves[0].source_store_id if moves else home
            handled = {first: self.passed.get(first, 0)}
        position = (await self._carried(moves, handled)).get(home, 0)
        await self._settle(tenant_id, home, position)

    async def follow(self, route: TenantRouting) -> bool:
        """Read the tenant where its route says; False when it is read there already."""
        tenant_id, home = as_uuid(route.tenant_id), route.store_id
        before = self.home(tenant_id)
        if before == home or not self._is_known(route):
            return False
        async with self.turn(tenant_id):
            position = self.position(before, tenant_id)
            if tenant_id not in self.joining.get(before, ()) and not self._keep_apart:
                position = max(position, self.passed.get(before, 0))
            moves = await self._moves(tenant_id)
            carried = await self._carried(moves, {before: position})
            await self._settle(tenant_id, home, carried.get(home, 0))
            self.joining.get(before, set()).discard(tenant_id)
        _log.info(
            "subscription %r reads tenant %s from store %r now, before from %r",
            self._name, tenant_id, home, before,
        )  # fmt: skip
        return True

    async def _settle(self, tenant_id: UUID, home: str, position: int) -> None:
        # Durable first: from here on the feed of the former store leaves the tenant out.
        kept = await self._checkpoints.save(self._name, home, position, tenant_id)
        self._positions[home, tenant_id] = kept.position
        self._homes[tenant_id] = home
        self.joining[home].add(tenant_id)

    async def _moves(self, tenant_id: UUID) -> list[Migration]:
        return [
            migration
            for migration in await self._migrations.get_by_tenant(tenant_id)
            if migration.state is MigrationState.MIGRATED
        ]

    async def _carried(self, moves: list[Migration], handled: dict[str, int]) -> dict[str, int]:
        """What was handled in each store, with what it stands for in the stores that followed."""
        found = dict(handled)
        for migration in moves:
            if migration.source_store_id in found:
                carried = await self._mapper.translate_within(
                    migration, found[migration.source_store_id]
                )
                target = migration.target_store_id
                found[target] = max(found.get(target, 0), carried)
        return found

    def _is_known(self, route: TenantRouting) -> bool:
        if route.store_id in self.joining:
            return True
        if (route.tenant_id, route.store_id) not in self._unknown:
            self._unknown.add((route.tenant_id, route.store_id))
            _log.warning(
                "subscription %r cannot read tenant %s: store %r is not known here, add it to the"
                " router's `stores`", self._name, route.tenant_id, route.store_id,
            )  # fmt: skip
        return False
