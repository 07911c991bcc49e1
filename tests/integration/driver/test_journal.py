"""The journal and the routes: who may move them, and that none of them goes back."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.migration.errors import InvalidStateTransitionError, LeaseLostError
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from tests.support.application import SOURCE, TARGET
from tests.support.worlds.three_databases import World


async def test_a_lease_is_not_taken_from_a_driver_that_lives(world: World) -> None:
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.reach(migration, "paused")
    await world.coordinator.close()
    journal, first, second = world.here.migrations, uuid4(), uuid4()
    assert await journal.acquire_lease(migration.id, first, "first", 60)
    assert not await journal.acquire_lease(migration.id, second, "second", 60)
    assert not await journal.renew_lease(migration.id, second, 60)
    await journal.release_lease(migration.id, second)
    assert await journal.renew_lease(migration.id, first, 60)
    await world.control.execute(
        "update tenant_migrations set driver_expires_at = now() - interval '1 s'"
    )
    assert await journal.acquire_lease(migration.id, second, "second", 60)
    assert not await journal.renew_lease(migration.id, first, 60)


async def test_the_state_changes_for_its_driver_only_and_from_what_the_driver_saw(
    world: World,
) -> None:
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    paused = await world.reach(migration, "paused")
    await world.coordinator.close()
    journal, owner = world.here.migrations, uuid4()
    assert await journal.acquire_lease(migration.id, owner, "owner", 60)
    before = await world.fingerprint()
    with pytest.raises(LeaseLostError):
        await journal.transition(paused, MigrationState.DUAL_WRITE, owner=uuid4())
    # It was in dual_write once, and is not any more.
    assert migration.state is MigrationState.DUAL_WRITE
    with pytest.raises(InvalidStateTransitionError):
        await journal.transition(migration, MigrationState.CUTOVER_PAUSED, owner=owner)
    assert await world.fingerprint() == before
    moved = await journal.transition(paused, MigrationState.DUAL_WRITE, owner=owner)
    assert moved.state is MigrationState.DUAL_WRITE


async def test_a_change_of_state_that_is_refused_needs_no_second_connection(world: World) -> None:
    """Several that wait for another one while they hold theirs would wait for ever."""
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.coordinator.close()
    async with asyncpg.create_pool(world.dsns["control"], min_size=1, max_size=1) as pool:
        journal = PostgreSQLMigrationRepository(pool)
        async with asyncio.timeout(5):
            with pytest.raises(InvalidStateTransitionError):
                await journal.transition(migration, MigrationState.CUTOVER_PAUSED)


async def test_what_a_fence_told_is_newer_than_a_route_that_was_read(world: World) -> None:
    """The control database hears of a decision last; until then it does not take a tenant back."""
    routes = world.router._routes
    await world.here.append(world.tenant)
    assert (await world.router.route(world.tenant)).store_id == SOURCE
    adopted = routes.adopt(world.tenant, TARGET, 1, uuid4())
    assert (adopted.store_id, adopted.generation) == (TARGET, 1)
    assert (await routes.refresh(world.tenant)).store_id == TARGET
    # Nor does an older fence, which the tenant has passed on its way.
    assert routes.adopt(world.tenant, SOURCE, 1, uuid4()).store_id == TARGET
    assert (await world.router.route(world.tenant)).store_id == TARGET
