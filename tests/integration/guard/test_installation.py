"""How the guard gets its triggers, while everybody goes on writing."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration.errors import MigrationError
from eventsource.migration.event_table import EventTable
from eventsource.migration.tables import fences, guard, standby
from tests.support.application import SOURCE
from tests.support.one_fence import BUDGET, MIGRATION, Guarded, guarded, refused, triggers
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, someone_blocked

RENEWAL = "select%eventsource_guard_renew%"


async def test_the_fence_row_is_committed_before_its_triggers_exist(world: World) -> None:
    await world.seed(3)
    async with world.open_transaction(world.other):
        migration = await world.here.start(world.tenant)
        await someone_blocked(world, RENEWAL)
        [row] = await world.source.fetch("select state, migration_id from eventsource_fences")
        assert tuple(row) == ("open", migration.id)
        assert await triggers(world) == []
        # A snapshot taken now would miss what unguarded writers still have in flight.
        assert await world.target.fetchval("select snapshot from eventsource_copy_progress") is None
        assert await world.source.fetchval("select count(*) from eventsource_witnesses") == 0
    await world.reach(migration, "dual_write")
    assert len(await triggers(world)) == 3


async def test_the_triggers_fire_always_and_after_those_of_the_application(world: World) -> None:
    await guarded(world)
    assert [enabled for _, enabled in await triggers(world)] == ["A", "A", "A"]
    names = await world.source.fetch(
        "select tgname from pg_trigger where not tgisinternal and tgname not like '%guard%'"
    )
    assert min(name for name, _ in await triggers(world)) > max(row[0] for row in names)


async def test_installing_twice_is_installing_once(world: World) -> None:
    it = await guarded(world)
    before = await world.source.fetch("select tgname, tgargs, tgqual from pg_trigger order by 1")
    await it.install()
    after = await world.source.fetch("select tgname, tgargs, tgqual from pg_trigger order by 1")
    assert after == before
    assert (await guarded(world, install=False)).fence == it.fence
    await insert(world.source, world.tenant)


async def test_a_tenant_that_has_left_stays_guarded_whoever_comes_and_goes(world: World) -> None:
    gone = await guarded(world)
    await gone.set_state("moved")
    leaving = await guarded(world, tenant=world.other, migration=uuid4())
    assert len(await triggers(world)) == 3
    await refused(insert(world.source, world.tenant), "EVF01")
    await insert(world.source, world.other)
    await refused(world.source.execute("update events set actor_id = 'x'"), "EVF02")
    assert await guard.remove(leaving.table, leaving.fence)
    await refused(insert(world.source, world.tenant), "EVF01")
    await world.source.execute("update events set actor_id = 'x'")
    assert not await guard.remove(gone.table, gone.fence)
    assert len(await triggers(world)) == 3


async def test_two_tenants_that_begin_at_once_are_both_guarded(world: World) -> None:
    one = await guarded(world, install=False)
    third = uuid4()
    async with world.open_transaction(third):
        renewing = asyncio.create_task(guard.renew(one.table))
        await someone_blocked(world, RENEWAL)
        # It has asked for the table by now and looks at the fences when it has it, not before: the
        # second tenant's guard may be made in between, and would be made anew without it.
        two = await guarded(world, tenant=world.other, migration=uuid4(), install=False)
    await renewing
    for each in (one, two):
        await insert(world.source, each.tenant)
        await each.set_state("moved")
        await refused(insert(world.source, each.tenant), "EVF01")


@pytest.mark.parametrize("way", ["there", "back"])
async def test_an_abort_takes_along_a_guard_that_another_migration_makes_meanwhile(
    world: World, way: str
) -> None:
    other = await guarded(world, tenant=world.other, migration=uuid4(), install=False)
    aborted = await (
        guarded(world, install=False) if way == "there" else _way_back_without_a_guard(world)
    )
    await other.admin.execute("begin")
    await guard.renew(other.table)
    removing = asyncio.create_task(guard.remove(aborted.table, aborted.fence))

    async def waits_or_is_over() -> bool:
        return removing.done() or not await _nobody_blocked(world, "delete%eventsource_fences%")

    await until(waits_or_is_over, "the abort at the fence that the other guard was made from")
    await other.admin.execute("commit")
    assert await removing
    await insert(world.source, world.tenant)
    await other.set_state("moved")
    await refused(insert(world.source, world.other), "EVF01")


async def _way_back_without_a_guard(world: World) -> Guarded:
    """Its fence knows its table from the beginning: the next guard need not write that into it,
    which would be one more reason for an abort to wait."""
    table = EventTable(await world.connect("source"), await world.here.source.address())
    await standby.add_fence(
        table, tenant_id=world.tenant, migration_id=MIGRATION, store_id=SOURCE, role="source",
        patience_ms=3000,
    )  # fmt: skip
    fence = await fences.of_migration(table, MIGRATION, "source")
    assert fence is not None
    return Guarded(world, "source", table, fence, world.tenant)


async def test_an_unfinished_fence_of_another_migration_is_not_taken_over(world: World) -> None:
    it = await guarded(world)
    with pytest.raises(MigrationError, match=str(MIGRATION)):
        await fences.raise_fence(
            EventTable(world.source, it.table.address), tenant_id=world.tenant,
            migration_id=uuid4(),
            store_id=SOURCE, role="source", generation=0, budget_seconds=BUDGET,
        )  # fmt: skip


@pytest.mark.alone
async def test_writers_hardly_wait_for_an_installation_that_waits_for_a_transaction(
    world: World,
) -> None:
    it = await guarded(world, install=False)
    waits: list[float] = []

    async def write_on(connection: asyncpg.Connection) -> None:
        while True:
            began = time.monotonic()
            await insert(connection, world.other)
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.002)

    writers = [asyncio.create_task(write_on(await world.connect())) for _ in range(2)]
    async with world.open_transaction(world.tenant):
        installing = asyncio.create_task(it.install())
        for _ in range(2):
            await someone_blocked(world, RENEWAL)
            await until(lambda: _nobody_blocked(world, RENEWAL), "the attempt to be given up")
        assert not installing.done()
    await installing
    for task in writers:
        task.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    # 150 ms by design; the rest is for a busy machine.
    assert max(waits) < 0.5
    assert len(await triggers(world)) == 3
    await it.set_state("moved")
    await refused(insert(world.source, world.tenant), "EVF01")


async def _nobody_blocked(world: World, query_like: str) -> bool:
    return not await world.source.fetchval(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and query ilike $1 and datname = current_database()",
        query_like,
    )


@pytest.mark.parametrize("request_", ["pause", "abort"])
async def test_a_request_is_obeyed_while_the_installation_waits(
    world: World, request_: str
) -> None:
    await world.seed(3)
    async with world.open_transaction(world.other), asyncio.timeout(15):
        migration = await world.here.start(world.tenant)
        await someone_blocked(world, RENEWAL)
        if request_ == "pause":
            stopped = await world.coordinator.pause_migration(migration.id)
            assert (stopped.state, stopped.paused_from) == ("paused", "pending")
        else:
            stopped = await world.coordinator.abort_migration(migration.id)
            assert stopped.state == "rolled_back"
        assert await triggers(world) == []
    if request_ == "pause":
        await world.coordinator.resume_migration(migration.id)
        await world.reach(migration, "dual_write")
