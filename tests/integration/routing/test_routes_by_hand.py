"""A route that somebody sets by hand: never under a migration, whatever it does at the moment."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from eventsource.migration import Migration, RoutingError
from eventsource.migration.models import MigrationConfig
from tests.support.application import SOURCE, TARGET
from tests.support.worlds.three_databases import World

ELSEWHERE = "elsewhere"


async def recorded(world: World) -> Migration:
    """A migration that nobody drives yet."""
    return await world.here.migrations.create(
        migration_id=uuid4(), tenant_id=world.tenant, source_store_id=SOURCE,
        target_store_id=TARGET, config=MigrationConfig(keep_way_back=0.0), generation=0,
        operator=None,
    )  # fmt: skip


async def assert_held(world: World, migration_id: UUID) -> None:
    routes = world.here.routes
    before = await routes.get_routing(world.tenant)
    for store in (SOURCE, TARGET, ELSEWHERE):
        with pytest.raises(RoutingError, match="is migrating"):
            await routes.set_routing(world.tenant, store)
    after = await routes.get_routing(world.tenant)
    assert after == before
    assert after is not None
    assert after.migration_id == migration_id


async def test_no_route_is_set_by_hand_under_a_migration(world: World) -> None:
    await world.seed(20)
    migration = await recorded(world)
    await assert_held(world, migration.id)
    await world.here.coordinator.pause_migration(migration.id)
    migration = await world.reach(migration, "paused")
    await assert_held(world, migration.id)
    await world.here.coordinator.resume_migration(migration.id)
    migration = await world.reach(migration, "dual_write")
    await assert_held(world, migration.id)
    await world.coordinator.initiate_cutover(migration.id, force=True)
    there = await world.here.routes.set_routing(world.tenant, TARGET)
    assert (there.store_id, there.target_store_id) == (TARGET, None)


async def test_an_abort_and_a_failure_let_the_route_be_set(world: World) -> None:
    await world.seed(5)
    migration = await recorded(world)
    await world.coordinator.abort_migration(migration.id)
    assert (await world.here.routes.set_routing(world.tenant, ELSEWHERE)).store_id == ELSEWHERE
