"""Links that are cut, slow, half-open or refused at chosen points; nothing is lost, all goes on."""

from __future__ import annotations

import asyncio

import pytest

from eventsource.migration import MigrationState
from eventsource.migration.connections import timeouts
from eventsource.testing import StoreAddress, longest_append
from eventsource.testing.proxy import Proxy
from tests.support.worlds.behind_proxies import DRIVER, POINTS, SIDES, FaultyWorld, Point
from tests.support.worlds.two_servers import DEDICATED, SHARED, acknowledged, all_attempts

INFRA = pytest.mark.infra


def cells(*representative: str) -> list[object]:
    """Every point; those that are not named run by `make infra` only."""
    return [
        pytest.param(point, marks=[] if name in representative else [INFRA], id=name)
        for name, point in POINTS.items()
    ]


@pytest.mark.parametrize("point", cells("the decision is committed"))
async def test_a_move_outlives_a_cut_link(faulty: FaultyWorld, point: Point) -> None:
    async def cut(world: FaultyWorld) -> None:
        assert world.proxies[point.side].cut(DRIVER) > 0

    async with faulty.written_to() as writers:
        migration = await faulty.at(point, cut)
    await faulty.check(migration, writers)


@pytest.mark.parametrize("point", cells("the data plane logs in", "the decision is committed"))
async def test_a_move_outlives_a_link_that_swallows_everything(
    faulty: FaultyWorld, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product waits for longer; what is shown is that it gives up, and what it does then."""
    monkeypatch.setattr(timeouts, "STATEMENT_SECONDS", 2.0)
    monkeypatch.setattr(timeouts, "STALLED_SECONDS", 2.0)

    async def swallow(world: FaultyWorld) -> None:
        proxy = world.proxies[point.side]
        proxy.half_open(DRIVER)
        # New connections are sound; the ones that were open never recover.
        proxy.restore()

    async with faulty.written_to() as writers:
        # An abandoned transaction of the data plane is ended by its server after 30 s.
        migration = await faulty.at(point, swallow, within=75.0)
    await faulty.check(migration, writers)
    # Frozen while it holds the fence, the driver is rid of it by the server: I12 with room for a
    # busy machine.
    assert longest_append(all_attempts(writers), faulty.tenant) < 10


@pytest.mark.parametrize(
    ("side", "statement"),
    [
        ("source", "set state = 'moved'"),
        pytest.param("target", "eventsource_copy_progress", marks=INFRA),
        pytest.param("control", "migration_position_mappings", marks=INFRA),
        pytest.param("control", "tenant_routing", marks=INFRA),
    ],
)
async def test_a_move_outlives_the_lost_reply_to_a_commit(
    faulty: FaultyWorld, side: str, statement: str
) -> None:
    trap = faulty.proxies[side].lose_commit_reply(DRIVER, statement=statement)
    async with faulty.written_to() as writers:
        migration = await faulty.driver.start(faulty.tenant)
        migration = await faulty.to_the_end(migration.id)
    assert trap.hits == 1
    await faulty.check(migration, writers)


@INFRA
async def test_a_tenant_moves_over_slow_links(faulty: FaultyWorld) -> None:
    for proxy in faulty.proxies.values():
        proxy.delay(0.003)
        proxy.throttle(1_000_000)
    async with faulty.written_to() as writers:
        migration = await faulty.driver.start(faulty.tenant)
        migration = await faulty.to_the_end(migration.id)
    await faulty.check(migration, writers)


@pytest.mark.parametrize(
    "side", [pytest.param(side, marks=[INFRA] if side != "control" else []) for side in SIDES]
)
async def test_a_driver_waits_for_a_database_that_is_away(faulty: FaultyWorld, side: str) -> None:
    async with faulty.written_to() as writers:
        migration = await faulty.driver.start(faulty.tenant)
        await faulty.driver.reach(migration.id, MigrationState.DUAL_WRITE)
        faulty.proxies[side].refuse()
        faulty.proxies[side].cut()
        await acknowledged(writers, 10, faulty.tenant)
        # Whoever looks elsewhere sees that it is still there and has lost nothing.
        seen = await faulty.direct.coordinator.get_migration(migration.id)
        assert seen.state is MigrationState.DUAL_WRITE
        faulty.proxies[side].restore()
        migration = await faulty.to_the_end(migration.id)
    await faulty.check(migration, writers)


@INFRA
async def test_writers_whose_links_are_cut_again_and_again_lose_nothing(
    faulty: FaultyWorld,
) -> None:
    world = faulty.direct
    async with Proxy(world.source.dsn) as source, Proxy(world.target.dsn) as target:
        stores = {
            SHARED: StoreAddress(source.dsn, world.source.table),
            DEDICATED: StoreAddress(target.dsn, world.target.table),
        }
        async with faulty.written_to(stores=stores) as writers:

            async def cut_again_and_again() -> None:
                while True:
                    await acknowledged(writers, 5, faulty.tenant)
                    source.cut()
                    target.cut()

            cutting = asyncio.create_task(cut_again_and_again())
            migration = await faulty.driver.start(faulty.tenant)
            await faulty.driver.reach(migration.id, MigrationState.DUAL_WRITE)
            await acknowledged(writers, 20, faulty.tenant)
            migration = await faulty.to_the_end(migration.id)
            await acknowledged(writers, 10, faulty.tenant)
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)
        await faulty.check(migration, writers)
