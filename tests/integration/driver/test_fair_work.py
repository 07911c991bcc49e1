"""Several processes that work share what is due."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import uuid4

import pytest

from eventsource.migration import Migration, MigrationConfig, background
from eventsource.migration.background import BackgroundDrivers
from tests.support.application import SOURCE, TARGET
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

DUE, WORKERS = 18, 3


async def recorded(world: World, count: int) -> None:
    """So many migrations in the journal that nobody drives, of tenants without events."""
    for _ in range(count):
        await world.here.migrations.create(
            migration_id=uuid4(),
            tenant_id=uuid4(),
            source_store_id=SOURCE,
            target_store_id=TARGET,
            config=world.coordinator._config,
            generation=0,
            operator=None,
        )


async def take_the_lease(self: BackgroundDrivers, migration: Migration) -> None:
    """As a driver begins, with nothing to carry."""
    await asyncio.sleep(0.1)
    if await self._migrations.acquire_lease(migration.id, uuid4(), "a driver", 60):
        await asyncio.Event().wait()


async def test_three_processes_share_what_is_due(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one looks most of a second before the others, as when they are started."""
    monkeypatch.setattr(BackgroundDrivers, "_drive_one", take_the_lease)
    await recorded(world, DUE)
    workers = [await world.process() for _ in range(WORKERS)]
    working = []
    for number, worker in enumerate(workers):
        working.append(asyncio.create_task(worker.coordinator.work()))
        if number == 0:
            await asyncio.sleep(0.8)

    async def all_driven() -> bool:
        driven: int = await world.control.fetchval(
            "select count(*) from tenant_migrations where driver_expires_at > now()"
        )
        return driven == DUE

    await until(all_driven, "a driver for each", 60)
    await asyncio.sleep(0.2)
    shares = [len(each.coordinator._drivers._driving) for each in workers]
    for task in working:
        task.cancel()
    assert sum(shares) == DUE
    assert min(shares) >= DUE // WORKERS // 2, shares


async def test_what_waits_for_a_place_is_not_asked_for_all_the_time(world: World) -> None:
    world.here.coordinator._config = MigrationConfig(max_moves_per_store=1)
    await recorded(world, 40)
    worker = await world.process()
    working = asyncio.create_task(worker.coordinator.work(poll_seconds=0.1))
    most: Counter[str] = Counter()
    for _ in range(20):
        await asyncio.sleep(0.1)
        most["tasks"] = max(most["tasks"], len(worker.coordinator._drivers._driving))
    working.cancel()
    assert 1 <= most["tasks"] <= background.MOST_AT_A_LOOK + 1
