"""Two subscriptions that follow the moving tenant through the move, and count what they get."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.subscriptions import Subscription

if TYPE_CHECKING:
    from eventsource.migration import SubscriptionMigrator
    from eventsource.stores.interface import StoredEvent
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.subscriptions import PostgreSQLCheckpointRepository

BILLING, SEARCH = "Billing", "Search"

#: Seconds between two looks at a store that had nothing more.
_POLL = 0.1


@dataclass(slots=True)
class Projections:
    """`Billing` reads the moving tenant alone, `Search` every tenant of the shared store.

    Attributes:
        tenant_id: the moving tenant.
        start: position in the shared store that both have handled before the demonstration.
        predicted: how many events the plan says will be delivered twice.
    """

    tenant_id: UUID
    source_id: str
    target_id: str
    source: PostgreSQLEventStore
    target: PostgreSQLEventStore
    checkpoints: PostgreSQLCheckpointRepository
    start: int = 0
    predicted: int = 0
    _delivered: dict[str, Counter[UUID]] = field(
        default_factory=lambda: {BILLING: Counter(), SEARCH: Counter()}
    )
    _running: dict[tuple[str, str], tuple[Subscription, asyncio.Task[None]]] = field(
        default_factory=dict
    )

    async def begin(self) -> None:
        """Both have handled what is there and follow what the writers append."""
        self.start = await self.source.get_global_position()
        await self.checkpoints.save(BILLING, self.source_id, self.start, self.tenant_id)
        await self.checkpoints.save(SEARCH, self.source_id, self.start)
        self._run(BILLING, self.source_id, self.tenant_id)
        self._run(SEARCH, self.source_id, None)

    async def stop(self) -> None:
        """Stop both before the cutover, as a careful operator would."""
        for name in (BILLING, SEARCH):
            await self._stop(name, self.source_id)

    async def carry_over(
        self, migrator: SubscriptionMigrator, migration_id: UUID, operator: str
    ) -> None:
        """Plan, migrate, and follow the tenant at the target.

        `Search` also goes on at the source for the other tenants. What is left of the moving one
        there it gets once more at the target: so many events as the plan says.
        """
        names = [BILLING, SEARCH]
        plan = await migrator.plan_migration(migration_id, self.tenant_id, names)
        self.predicted = sum(each.redelivered_events for each in plan.planned_migrations)
        await migrator.migrate_subscriptions(migration_id, self.tenant_id, names, operator=operator)
        self._run(SEARCH, self.source_id, None)
        for name in names:
            self._run(name, self.target_id, self.tenant_id)

    async def finish(self) -> None:
        """When no writer writes any more: everything that is there gets delivered."""
        for subscription, _ in list(self._running.values()):
            await self._stop(subscription.name, subscription.store_id)
            await subscription.catch_up()

    async def skipped(self) -> int:
        """Events of the tenant after the start that a subscription never got."""
        written = await self._written()
        return sum(len(written - delivered.keys()) for delivered in self._delivered.values())

    @property
    def redelivered(self) -> int:
        """Deliveries of the tenant's events beyond the first."""
        return sum(c.total() - len(c) for c in self._delivered.values())

    async def _written(self) -> Set[UUID]:
        at_source = self.source.read_all(self.start, tenant_id=self.tenant_id)
        before = {event.event_id async for event in at_source}
        at_target = self.target.read_all(self.start, tenant_id=self.tenant_id)
        return before | {event.event_id async for event in at_target}

    def _run(self, name: str, store_id: str, tenant_id: UUID | None) -> None:
        async def handle(event: StoredEvent) -> None:
            if event.tenant_id == self.tenant_id:
                self._delivered[name][event.event_id] += 1

        store = self.source if store_id == self.source_id else self.target
        subscription = Subscription(
            name, store, store_id, self.checkpoints, handle, tenant_id, poll_interval=_POLL
        )
        task = asyncio.get_running_loop().create_task(subscription.run())
        self._running[name, store_id] = (subscription, task)

    async def _stop(self, name: str, store_id: str) -> None:
        subscription, task = self._running.pop((name, store_id))
        subscription.stop()
        await task

    async def cancel(self) -> None:
        """End them at once, whatever they do."""
        for _, task in self._running.values():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        self._running.clear()
