"""Subscriptions that go with the moving tenant, and count what they get."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.subscriptions import Subscription

if TYPE_CHECKING:
    from eventsource.migration import SubscriptionMigrator, TenantStoreRouter
    from eventsource.migration.routing.following import TenantSubscription
    from eventsource.stores.interface import StoredEvent
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.subscriptions import PostgreSQLCheckpointRepository

BILLING, SEARCH, LEDGER = "Billing", "Search", "Ledger"

#: Those that a plan carries over.
_CARRIED = (BILLING, SEARCH)

#: Seconds between two looks at a store that had nothing more.
_POLL = 0.1


@dataclass(slots=True)
class Projections:
    """`Billing` reads the moving tenant alone, `Search` every tenant of the shared store.

    Both are carried over to the target by a plan. `Ledger` is a router's subscription: it follows
    the tenant by itself, also when it returns.

    Attributes:
        tenant_id: the moving tenant.
        start: position in the shared store that all have handled before the demonstration.
        predicted: how many events the plan says will be delivered twice.
        skipped: how many of the tenant's events a subscription never got.
    """

    tenant_id: UUID
    source_id: str
    target_id: str
    source: PostgreSQLEventStore
    target: PostgreSQLEventStore
    checkpoints: PostgreSQLCheckpointRepository
    start: int = 0
    predicted: int = 0
    skipped: int = 0
    _delivered: dict[str, Counter[UUID]] = field(
        default_factory=lambda: {BILLING: Counter(), SEARCH: Counter(), LEDGER: Counter()}
    )
    _running: dict[tuple[str, str], tuple[Subscription, asyncio.Task[None]]] = field(
        default_factory=dict
    )
    _ledger: tuple[TenantSubscription, asyncio.Task[None]] | None = None

    async def begin(self, router: TenantStoreRouter) -> None:
        """All have handled what is there and follow what the writers append."""
        self.start = await self.source.get_global_position()
        await self.checkpoints.save(BILLING, self.source_id, self.start, self.tenant_id)
        await self.checkpoints.save(SEARCH, self.source_id, self.start)
        await self.checkpoints.save(LEDGER, self.source_id, self.start, self.tenant_id)
        self._run(BILLING, self.source_id, self.tenant_id)
        self._run(SEARCH, self.source_id, None)
        ledger = router.subscription(
            LEDGER, self.checkpoints, partial(self._count, LEDGER), [self.tenant_id],
            poll_interval=_POLL,
        )  # fmt: skip
        self._ledger = ledger, asyncio.get_running_loop().create_task(ledger.run())

    async def stop(self) -> None:
        """Stop both before the cutover, as a careful operator would."""
        for name in _CARRIED:
            await self._stop(name, self.source_id)

    async def carry_over(
        self, migrator: SubscriptionMigrator, migration_id: UUID, operator: str
    ) -> None:
        """Plan, migrate, and follow the tenant at the target.

        `Search` also goes on at the source for the other tenants. What is left of the moving one
        there it gets once more at the target: so many events as the plan says.
        """
        names = list(_CARRIED)
        plan = await migrator.plan_migration(migration_id, self.tenant_id, names)
        self.predicted = sum(each.redelivered_events for each in plan.planned_migrations)
        await migrator.migrate_subscriptions(migration_id, self.tenant_id, names, operator=operator)
        self._run(SEARCH, self.source_id, None)
        for name in names:
            self._run(name, self.target_id, self.tenant_id)

    async def end_stay(self) -> None:
        """Before the tenant returns: the two that were carried over end, and are counted.

        They are to have got what the tenant had before the move, and at the target all up to
        where they are.
        """
        read = {}
        for name in _CARRIED:
            subscription, _ = self._running[name, self.target_id]
            await self._stop(name, self.target_id)
            # On a busy machine it may not have come to the end of what was carried.
            await subscription.catch_up()
            checkpoint = await self.checkpoints.get(name, self.target_id, self.tenant_id)
            read[name] = checkpoint.position if checkpoint else 0
        search, _ = self._running[SEARCH, self.source_id]
        await self._stop(SEARCH, self.source_id)
        await search.catch_up()
        before = await self._written(self.source)
        for name, position in read.items():
            written = before | await self._written(self.target, position)
            self.skipped += len(written - self._delivered[name].keys())

    async def finish(self) -> None:
        """When no writer writes any more: everything that is there gets delivered."""
        assert self._ledger is not None
        ledger, task = self._ledger
        ledger.stop()
        await task
        await ledger.catch_up()
        written = await self._written(self.source)
        self.skipped += len(written - self._delivered[LEDGER].keys())

    @property
    def redelivered(self) -> int:
        """Deliveries beyond the first, of the two that were carried over."""
        return sum(self._delivered[name].total() - len(self._delivered[name]) for name in _CARRIED)

    @property
    def followed(self) -> int:
        """How many of the tenant's events `Ledger` got."""
        return len(self._delivered[LEDGER])

    async def _written(self, store: PostgreSQLEventStore, end: float = inf) -> Set[UUID]:
        found = store.read_all(self.start, tenant_id=self.tenant_id)
        return {event.event_id async for event in found if event.global_position <= end}

    async def _count(self, name: str, event: StoredEvent) -> None:
        if event.tenant_id == self.tenant_id:
            self._delivered[name][event.event_id] += 1

    def _run(self, name: str, store_id: str, tenant_id: UUID | None) -> None:
        store = self.source if store_id == self.source_id else self.target
        subscription = Subscription(
            name, store, store_id, self.checkpoints, partial(self._count, name), tenant_id,
            poll_interval=_POLL,
        )  # fmt: skip
        task = asyncio.get_running_loop().create_task(subscription.run())
        self._running[name, store_id] = (subscription, task)

    async def _stop(self, name: str, store_id: str) -> None:
        subscription, task = self._running.pop((name, store_id))
        subscription.stop()
        await task

    async def cancel(self) -> None:
        """End them at once, whatever they do."""
        ledger = [] if self._ledger is None else [self._ledger[1]]
        for task in [*ledger, *(task for _, task in self._running.values())]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        self._running.clear()
