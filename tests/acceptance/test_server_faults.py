"""Servers restart and crash at chosen points; every move comes to its end and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from eventsource.migration import MigrationState
from eventsource.testing.proxy import Trap
from tests.support.waiting import until
from tests.support.worlds.behind_proxies import POINTS, SIDES, FaultyWorld, Point

#: Those that every run of the tests makes; `make infra` makes all.
REPRESENTATIVE = {
    ("a chunk is written", "crash", "target"),
    ("a pass is proven", "crash", "control"),
    ("the decision is committed", "crash", "source"),
}

CELLS = [
    pytest.param(
        point, how, side,
        marks=[] if (point, how, side) in REPRESENTATIVE else [pytest.mark.infra],
        id=f"{side} {how} when {point}",
    )
    for point in POINTS
    for how in ("crash", "restart")
    for side in SIDES
    # A server that says goodbye is one that crashes, but for its own sessions.
    if how == "crash" or side == POINTS[point].side
]  # fmt: skip


@pytest.mark.parametrize(("point", "how", "side"), CELLS)
async def test_a_move_outlives_a_server(
    faulty: FaultyWorld, point: str, how: str, side: str
) -> None:
    async with faulty.written_to() as writers:
        migration = await faulty.at(POINTS[point], lambda world: getattr(world, how)(side))
    await faulty.check(migration, writers)


async def test_a_move_comes_by_at_every_moment(faulty: FaultyWorld) -> None:
    """Otherwise the faults of a moment wait for a statement that nobody sends any more."""
    passed: set[str] = set()

    async def pass_by(point: Point, trap: Trap) -> None:
        async def sprung() -> bool:
            return trap.hits > 0

        # Not in a thread each: there are more moments than threads.
        await until(sprung, point.name)
        passed.add(point.name)
        trap.release()

    def each(*, cutover: bool) -> list[asyncio.Task[None]]:
        points = [point for point in POINTS.values() if point.cutover is cutover]
        return [asyncio.create_task(pass_by(point, faulty.trap(point))) for point in points]

    async with faulty.written_to():
        waiting = each(cutover=False)
        migration = await faulty.driver.start(faulty.tenant)
        await faulty.driver.reach(migration.id, MigrationState.DUAL_WRITE)
        waiting += each(cutover=True)
        await faulty.to_the_end(migration.id)
        for wait in waiting:
            wait.cancel()
    assert set(POINTS) - passed == set()
