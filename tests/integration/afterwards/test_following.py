"""A way back that is followed for some time: with few logins, and in nobody's way."""

from __future__ import annotations

import asyncio
import logging

import pytest

from eventsource.migration.connections import session_marks
from eventsource.migration.driver import follower
from tests.support.application import SOURCE, Process
from tests.support.there_and_back import appended, assert_home, moved
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

#: Longer than any of these tests.
LONG = 60.0

# Sessions of the data plane at the store that was left.
_CARRYING = """
select array_agg(pid order by pid) from pg_locks
where locktype = 'advisory' and objsubid = 1
  and (classid::bigint << 32 | objid::bigint) = $1
"""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows does not end for want of events."""
    monkeypatch.setattr(follower, "QUIET_SECONDS", LONG)


async def carried(world: World, keeper: Process, tenant: object = None) -> None:
    """What is appended now is at the store that was left, without anybody who asks for it."""
    await appended(keeper, tenant or world.tenant)  # type: ignore[arg-type]

    async def there() -> bool:
        return set(await world.ids("target")) <= set(await world.ids("source"))

    await until(there, "the new events at the store that was left")


async def test_new_events_are_carried_by_the_sessions_of_those_before(
    world: World, keeper: Process
) -> None:
    migration = await moved(world, keeper)
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    mark = session_marks.data_plane_mark(way.id)
    await appended(keeper, world.tenant)
    following = asyncio.create_task(keeper.coordinator._drivers._follower.turn(stay=LONG))
    seen = []
    for _ in range(3):
        await carried(world, keeper)
        seen.append(await world.source.fetchval(_CARRYING, mark))
    assert seen[0] is not None
    assert seen == [seen[0]] * 3
    # Quiet for a while, it holds nothing any more.
    assert await asyncio.wait_for(following, 10) == 1

    async def gone() -> bool:
        return await world.source.fetchval(_CARRYING, mark) is None

    await until(gone, "the end of its sessions at the server")
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.is_followed, way.carried, way.lag, way.reason) == (False, 48, 0, None)


@pytest.mark.usefixtures("patient")
async def test_a_tenant_returns_while_it_is_followed(
    world: World, keeper: Process, caplog: pytest.LogCaptureFixture
) -> None:
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    elsewhere = await world.process()
    with caplog.at_level(logging.WARNING):
        following = asyncio.create_task(elsewhere.coordinator._drivers._follower.turn(stay=LONG))
        await carried(world, keeper)
        back = await keeper.coordinator.return_migration(migration.id)
        await asyncio.wait_for(following, 10)
    assert back.state == "migrated"
    assert not [each for each in caplog.records if "is not followed" in each.getMessage()]
    await assert_home(world, keeper, "source", SOURCE)
    assert set(await world.ids("target")) < set(await world.ids("source"))


@pytest.mark.usefixtures("patient")
async def test_one_that_is_closed_is_not_followed_on(world: World, keeper: Process) -> None:
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    elsewhere = await world.process()
    following = asyncio.create_task(elsewhere.coordinator._drivers._follower.turn(stay=LONG))
    await carried(world, keeper)
    way = await keeper.coordinator.close_way_back(migration.id)
    assert way.shown == "closed"
    await asyncio.wait_for(following, 10)
    before = len(await world.ids("source"))
    await appended(keeper, world.tenant)
    assert len(await world.ids("source")) == before


@pytest.mark.usefixtures("patient")
async def test_of_two_that_are_due_none_is_stayed_with(world: World, keeper: Process) -> None:
    await moved(world, keeper)
    await world.seed(7, world.other)
    other = await world.dual_write(world.other, process=keeper)
    await keeper.coordinator.initiate_cutover(other.id)
    for tenant in (world.tenant, world.other):
        await appended(keeper, tenant)
    async with asyncio.timeout(LONG / 2):
        assert await keeper.coordinator._drivers._follower.turn(stay=LONG) == 2
    for tenant in (world.tenant, world.other):
        assert set(await world.ids("target", tenant)) == set(await world.ids("source", tenant))


@pytest.mark.usefixtures("patient")
async def test_a_busy_one_is_let_go_of_when_its_time_is_over(world: World, keeper: Process) -> None:
    """Who repairs it waits for that."""
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    async with asyncio.timeout(LONG / 2):
        assert await keeper.coordinator._drivers._follower.turn(stay=0.5) == 1
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert not way.is_followed
