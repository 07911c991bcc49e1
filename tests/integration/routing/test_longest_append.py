"""What an application has waited at a cutover is measured where it waits, and is in the report."""

from __future__ import annotations

import asyncio

import pytest

from eventsource.migration import Migration, RouterReport
from eventsource.migration.routing import longest
from tests.support.application import writing
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

#: How long an append in flight holds up the fence, and with it the next appends (seconds).
HELD = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longest, "SETTLED", 0.2)


async def held_up(world: World, migration: Migration, *, back: bool = False) -> Migration:
    """A cutover, while an append of another program is in flight for a while."""
    ask = world.coordinator.return_migration if back else world.coordinator.initiate_cutover
    async with world.open_transaction(world.tenant, "target" if back else "source") as other:
        cutover = asyncio.create_task(ask(migration.id))

        async def somebody_waits() -> bool:
            return bool(
                await other.fetchval(
                    "select exists (select from pg_locks where locktype = 'advisory'"
                    " and mode = 'ShareLock' and not granted and database ="
                    " (select oid from pg_database where datname = current_database()))"
                )
            )

        await until(somebody_waits, "an append at the fence")
        await asyncio.sleep(HELD)
    return await cutover


async def measured(world: World, migration: Migration) -> RouterReport:
    async def said() -> RouterReport | None:
        found = await world.coordinator.routers(migration.id)
        return next((each for each in found if each.longest_append_ms is not None), None)

    return await until(said, "what the router has measured")


async def test_it_is_the_time_that_the_application_has_waited_there_and_back(world: World) -> None:
    process = await world.process(keep_way_back=3600, cutover_timeout_seconds=5.0)
    world.processes.insert(0, world.processes.pop())
    await world.seed(20)
    async with writing(process, world.tenant) as writers:

        async def busy() -> bool:
            return writers.acknowledged > 20

        await until(busy, "appends")
        migration = await world.dual_write()
        for back in (False, True):
            writers.longest = 0.0
            migration = await held_up(world, migration, back=back)
            report = await measured(world, migration)
            assert report.ready
            assert report.longest_append_ms is not None
            assert HELD * 1000 <= report.longest_append_ms <= writers.longest * 1000
            assert report.longest_append_ms >= (migration.longest_wait_ms or 0) - 50
            document = await world.coordinator.report(migration.id)
            assert document["cutover"]["longest_append_by"] == report.router
            assert document["cutover"]["routers_that_measured"] == 1
            shown = document["cutover"]["longest_append_ms"]
            assert shown == pytest.approx(report.longest_append_ms, abs=0.001)
    steps = document["there_and_back"]
    assert len(steps) == 2
    assert all(each["longest_append_ms"] >= HELD * 1000 for each in steps)
