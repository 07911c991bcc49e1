"""What a router does beside its appends: it outlives what fails, and ends with the router."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from eventsource.migration import Migration
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from eventsource.migration.routing import mirror, router
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.waiting import until
from tests.support.worlds.three_databases import World


async def test_a_router_closes_although_its_control_database_was_never_there(
    world: World,
) -> None:
    """Its task that listens has failed by then: once that came out of the closing."""
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    process = await world.process(control_dsn=nowhere)
    with pytest.raises(OSError):
        await process.append(world.tenant)
    keeper = process.router._routes._keeper
    assert keeper is not None
    await asyncio.wait({keeper}, timeout=0.5)
    await process.router.close()
    assert keeper.cancelled()


async def test_a_mirror_outlives_a_target_table_that_is_not_there(world: World) -> None:
    """Once it ended with the first append, counted nothing, and came out of the closing."""
    await world.seed(5)
    astray = await world.process(target_store=lambda pool: PostgreSQLEventStore(pool, "no_table"))
    await astray.router.route(world.tenant)
    await world.dual_write()

    async def failed(number: int) -> bool:
        await astray.append(world.tenant)
        stats = astray.router.dual_write_stats(world.tenant)
        return stats is not None and stats.failures.total_failures >= number

    await until(lambda: failed(1), "a failure", 10)
    await until(lambda: failed(2), "another one", 10)
    await astray.router.close()


async def test_a_mirror_that_comes_late_does_not_take_the_place_of_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first migration was aborted, and another has begun, while the journal was read."""
    get, reading = PostgreSQLMigrationRepository.get, list[asyncio.Event]()
    await world.seed(5)
    here, driver = await world.process(), await world.process()
    await here.append(world.tenant)

    async def get_late(self: PostgreSQLMigrationRepository, migration_id: UUID) -> Migration:
        found = await get(self, migration_id)
        if self.pool is here.control_pool:
            reading.append(asyncio.Event())
            await reading[-1].wait()
        return found

    monkeypatch.setattr(PostgreSQLMigrationRepository, "get", get_late)
    first = await world.dual_write(process=driver)
    await until(lambda: _are(reading, 1), "the first to be read")
    await driver.coordinator.abort_migration(first.id)
    second = await world.dual_write(process=driver)
    await until(lambda: _are(reading, 2), "the second to be read")
    for each in reading:
        each.set()
        await asyncio.sleep(0.05)
    assert here.router._dual_write_interceptors[world.tenant].migration_id == second.id


async def _are(found: list[Any], number: int) -> bool:
    return len(found) >= number


async def test_a_router_that_is_closed_leaves_no_mirror(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins while another one is closed."""
    begun: list[Any] = []

    class Noted(mirror.DualWriteInterceptor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            begun.append(self)

        async def close(self) -> None:
            may.set()
            await asyncio.sleep(0.1)
            await super().close()

    get, reading, may = PostgreSQLMigrationRepository.get, asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(router, "DualWriteInterceptor", Noted)
    await world.seed(5)
    await world.seed(5, world.other)
    here, driver = await world.process(), await world.process()
    await here.append(world.tenant)
    await here.append(world.other)
    await world.dual_write(process=driver)
    await until(lambda: _are(begun, 1), "a mirror")

    async def get_late(self: PostgreSQLMigrationRepository, migration_id: UUID) -> Migration:
        found = await get(self, migration_id)
        if self.pool is here.control_pool:
            reading.set()
            await may.wait()
        return found

    monkeypatch.setattr(PostgreSQLMigrationRepository, "get", get_late)
    await world.dual_write(world.other, process=driver)
    await asyncio.wait_for(reading.wait(), 20)
    await here.router.close()
    await asyncio.sleep(0.1)
    assert [each._worker.done() for each in begun] == [True] * len(begun)
