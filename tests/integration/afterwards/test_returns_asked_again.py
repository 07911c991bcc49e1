"""A return that was asked for, given up before anybody drove it, and is asked for again."""

from __future__ import annotations

from typing import Any

import pytest

from eventsource.migration.repositories.ways_back import WayBack, WaysBack
from tests.support.application import Process
from tests.support.there_and_back import moved
from tests.support.worlds.three_databases import World


async def asked(world: World, keeper: Process) -> WayBack:
    """By a process that died then."""
    migration = await moved(world, keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    await keeper.stop()
    assert await WaysBack(world.here.control_pool).ask_return(way, {}, None)
    request: Any = migration.id
    assert await world.here.migrations.request_cutover(
        way.id, request, True, None, "left out", max_pause_seconds=30.0
    )
    return way


async def test_it_has_the_pause_that_it_is_asked_for_with(world: World, keeper: Process) -> None:
    way = await asked(world, keeper)
    aborted = await world.coordinator.abort_migration(way.id)
    assert (aborted.state, aborted.cutover_request) == ("rolled_back", None)
    back = await world.coordinator.return_migration(way.migration_id, max_pause_seconds=0.9)
    assert (back.state, back.cutover_budget, back.cutover_force) == ("migrated", 0.9, False)


@pytest.mark.parametrize("state", ["rolled_back", "failed"])
async def test_so_has_one_that_an_older_version_has_ended(
    world: World, keeper: Process, state: str
) -> None:
    way = await asked(world, keeper)
    await world.control.execute(
        "update tenant_migrations set state = $2, abort_requested = null where id = $1",
        way.id, state,
    )  # fmt: skip
    await world.control.execute("update tenant_ways_back set state = 'standby'")
    back = await world.coordinator.return_migration(way.migration_id, max_pause_seconds=0.9)
    assert (back.state, back.cutover_budget, back.cutover_force) == ("migrated", 0.9, False)
