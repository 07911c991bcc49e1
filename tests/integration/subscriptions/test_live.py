"""Subscriptions that run while their tenant is moved under a writing application."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest

from eventsource.migration import PositionMapper, SubscriptionMigrator
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from eventsource.stores.interface import StoredEvent
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository, Subscription
from tests.support.application import SOURCE, TARGET, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import World


class Projection:
    """Counts the deliveries of the moving tenant's events from any store; can be held up."""

    def __init__(
        self, name: str, tenant: UUID, checkpoints: PostgreSQLCheckpointRepository
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.checkpoints = checkpoints
        self.delivered: Counter[UUID] = Counter()
        self.open = asyncio.Event()
        self.open.set()

    async def handle(self, event: StoredEvent) -> None:
        await self.open.wait()
        if event.tenant_id == self.tenant:
            self.delivered[event.event_id] += 1

    def over(self, store: PostgreSQLEventStore, store_id: str, tenant: UUID | None) -> Subscription:
        return Subscription(
            self.name, store, store_id, self.checkpoints, self.handle, tenant,
            batch_size=7, poll_interval=0.01,
        )  # fmt: skip

    @property
    def repeated(self) -> int:
        return self.delivered.total() - len(self.delivered)


@pytest.mark.parametrize("mapping", ["rows", "offset"])
async def test_running_subscriptions_get_everything_and_twice_only_what_was_predicted(
    world: World, mapping: str
) -> None:
    here = world.here
    world.coordinator._config = replace(world.coordinator._config, position_mapping=mapping)
    await world.seed(40)
    await world.seed(25, world.other)
    # The target is in use, so positions are carried with an offset.
    await world.seed(30, world.other, side="target")
    checkpoints = PostgreSQLCheckpointRepository(here.migrations.pool)
    await checkpoints.create_schema()
    everyone = Projection("everyone", world.tenant, checkpoints)
    own = Projection("own", world.tenant, checkpoints)
    reading_everyone = everyone.over(here.source, SOURCE, None)
    reading_own = own.over(here.source, SOURCE, world.tenant)
    async with asyncio.TaskGroup() as tasks:
        enough = asyncio.Event()

        async def write() -> None:
            while not enough.is_set():
                await here.append(world.tenant, count=3)
                await here.append(world.other)
                await asyncio.sleep(0.01)  # as many events as the two readers keep up with

        writers = [tasks.create_task(write()) for _ in range(3)]
        runners = [tasks.create_task(s.run()) for s in (reading_everyone, reading_own)]
        migration = await world.dual_write()
        await until(reading_everyone.position, "the first batch of the shared subscription")
        everyone.open.clear()
        reading_own.stop()
        await runners[1]
        migration = await world.coordinator.initiate_cutover(migration.id, force=True)

        # The shared subscription runs on while its checkpoint is translated.
        summary = await _migrator(here, checkpoints).migrate_subscriptions(
            migration.id, world.tenant, ["everyone", "own"]
        )
        everyone.open.set()
        tail = [p.over(here.target, TARGET, world.tenant) for p in (everyone, own)]
        runners += [tasks.create_task(subscription.run()) for subscription in tail]
        moved_with = set(await world.ids("source"))
        await until(lambda: _has_new_events(own, moved_with), "events appended after the cutover")
        enough.set()
        await asyncio.wait(writers)
        for subscription in (reading_everyone, *tail):
            subscription.stop()
        await asyncio.wait(runners)
    for subscription in (reading_everyone, *tail):
        await subscription.catch_up()

    assert summary.all_successful
    assert (migration.position_offset or 0) >= 30
    assert await _maps(here, migration.id) == (mapping == "rows"), "nor does the opening map one"
    predicted = {result.subscription_name: result.redelivered_events for result in summary.results}
    assert predicted["own"] == 0
    assert predicted["everyone"] > 0, "it was held up before the cutover"
    everything = set(await world.ids("target"))
    for projection in (everyone, own):
        assert set(projection.delivered) == everything
        assert projection.repeated == predicted[projection.name]


def _migrator(
    process: Process, checkpoints: PostgreSQLCheckpointRepository
) -> SubscriptionMigrator:
    mappings = PostgreSQLPositionMappingRepository(process.migrations.pool)
    return SubscriptionMigrator(
        position_mapper=PositionMapper(mappings, process.router.stores), checkpoint_repo=checkpoints
    )


async def _maps(process: Process, migration_id: UUID) -> bool:
    return (
        await PostgreSQLPositionMappingRepository(process.migrations.pool).count(migration_id) > 0
    )


async def _has_new_events(projection: Projection, before: set[UUID]) -> bool:
    return not set(projection.delivered) <= before
