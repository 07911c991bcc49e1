"""A way back lets its own tenant through, and hides what was carried since the tenant left."""

from __future__ import annotations

import asyncpg
import pytest

from eventsource.migration.connections import session_marks
from tests.support.application import Process
from tests.support.there_and_back import appended, moved
from tests.support.worlds.three_databases import World, insert


async def test_a_way_back_lets_no_row_of_another_tenant_through(
    world: World, keeper: Process
) -> None:
    """Its session is the owner's, and may be that of a later way back in the same table."""
    first = await moved(world, keeper)
    way = await keeper.coordinator.way_back(first.id)
    assert way is not None
    await insert(world.source, world.other)
    await world.migrate(world.other)
    session = await world.connect(**{session_marks.MIGRATOR_SETTING: str(way.id)})
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(session, world.other)
    assert refused.value.sqlstate == "EVF01"


async def test_who_left_twice_hides_nothing_of_the_time_between(
    world: World, keeper: Process
) -> None:
    """Readers of the old store have still to see it."""
    migration = await moved(world, keeper)
    back = await keeper.coordinator.return_migration(migration.id)
    at_home = await insert(world.source, world.tenant)
    again = await keeper.coordinator.return_migration(back.id)
    await appended(keeper, world.tenant)
    assert again.generation > back.generation
    seen = [event.event_id async for event in world.here.source.read_all(0)]
    assert at_home["event_id"] in seen
