"""Which tenants there are, how large, and where each of them lives."""

from __future__ import annotations

import pytest

from eventsource.migration import MigrationError, RoutingError
from eventsource.stores.memory import InMemoryEventStore
from tests.support.application import SOURCE, TARGET
from tests.support.worlds.three_databases import World


async def test_tenants_come_by_size_with_their_routes(world: World) -> None:
    assert await world.coordinator.routes() == []
    assert await world.coordinator.tenants(SOURCE) == []
    for number in range(3):
        await world.here.append(world.tenant, count=number + 1)
    await world.here.append(world.other, text="long" * 5000)
    large, small = await world.coordinator.tenants(SOURCE)
    assert (large.tenant_id, large.events, large.route) == (world.tenant, 6, None)
    assert (small.tenant_id, small.events, small.route) == (world.other, 1, None)
    assert large.bytes > small.bytes > 200

    await world.migrate()
    [route] = await world.coordinator.routes()
    assert (route.tenant_id, route.store_id) == (world.tenant, TARGET)
    [moved] = await world.coordinator.tenants(TARGET)
    assert (moved.events, moved.route) == (6, route)
    left = {each.tenant_id: each for each in await world.coordinator.tenants(SOURCE)}
    assert left[world.tenant].route == route
    assert left[world.other].route is None


async def test_a_store_that_cannot_be_counted_is_named(world: World) -> None:
    with pytest.raises(RoutingError, match="nowhere"):
        await world.coordinator.tenants("nowhere")
    world.router.stores["memory"] = InMemoryEventStore()
    with pytest.raises(MigrationError, match="'memory' is of type InMemoryEventStore"):
        await world.coordinator.tenants("memory")
