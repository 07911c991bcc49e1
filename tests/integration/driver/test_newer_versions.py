"""Migrations that a newer version of this package carries on: an older one leaves them alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource.migration import Migration, MigrationCoordinator, MigrationState
from eventsource.migration.errors import ProtocolVersionError
from eventsource.migration.protocol import SPOKEN
from eventsource.migration.repositories import restored
from eventsource.migration.repositories.restored import RestoredMigration
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.routing import flips
from tests.support.application import SOURCE, TARGET
from tests.support.refusals import refusal
from tests.support.there_and_back import moved
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

_S = MigrationState

#: Everything that can be asked of a migration under way.
CALLS: dict[str, Callable[[MigrationCoordinator, Migration], Awaitable[Any]]] = {
    "pause": lambda c, m: c.pause_migration(m.id),
    "resume": lambda c, m: c.resume_migration(m.id),
    "throttle": lambda c, m: c.set_rate(m.id, 100),
    "keep": lambda c, m: c.set_keep_way_back(m.id, "1d"),
    "cutover": lambda c, m: c.initiate_cutover(m.id),
    "rehearse": lambda c, m: c.rehearse_cutover(m.id),
    "abort": lambda c, m: c.abort_migration(m.id),
    "abort without target": lambda c, m: c.abort_migration(m.id, without_target=True),
    "rebind": lambda c, m: c.rebind_migration(m.id, TARGET),
    "cleanup": lambda c, m: c.cleanup(m.id, now=True, backed_up=True),
    "leave out": lambda c, m: c.leave_out_router(m.id, "a"),
    "move": lambda c, m: c.move(m.tenant_id, SOURCE, TARGET),
}


async def taken_over(world: World, row: UUID, table: str = "tenant_migrations") -> None:
    """From now on a newer version carries it on."""
    await world.control.execute(f"update {table} set protocol = $2 where id = $1", row, SPOKEN + 1)


async def left_in_dual_write(world: World) -> Migration:
    """By a newer version, of which no process runs now."""
    await world.seed(20)
    migration = await world.dual_write()
    await world.coordinator.close()
    await taken_over(world, migration.id)
    return await world.here.migrations.get(migration.id)


@contextlib.asynccontextmanager
async def working(coordinator: MigrationCoordinator) -> AsyncIterator[None]:
    task = asyncio.create_task(coordinator.work(poll_seconds=0.02))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_nothing_is_asked_of_a_migration_of_a_newer_version(world: World) -> None:
    migration = await left_in_dual_write(world)
    older = await world.process()
    for call in CALLS.values():
        async with refusal(world, ProtocolVersionError, str(migration.id), "upgrade this process"):
            await call(older.coordinator, migration)
    async with refusal(world, ProtocolVersionError, str(migration.id)):
        await older.start(world.tenant)
    shown = await older.coordinator.get_migration(migration.id)
    assert (shown.protocol, shown.state) == (SPOKEN + 1, _S.DUAL_WRITE)
    assert [each.id for each in await older.coordinator.get_active_migrations()] == [migration.id]


async def test_work_leaves_it_alone_and_says_so_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    migration = await left_in_dual_write(world)
    before = await world.here.migrations.get(migration.id)
    older = await world.process()
    await world.seed(5, world.other)
    ours = await older.start(world.other)
    await older.coordinator.close()
    with caplog.at_level(logging.WARNING, "eventsource.migration.driver"):
        async with working(older.coordinator):
            await world.reach(ours, "dual_write")
            await asyncio.sleep(0.2)
    assert await world.here.migrations.get(migration.id) == before
    said = [each.getMessage() for each in caplog.records if str(migration.id) in each.getMessage()]
    assert len(said) == 1
    assert f"needs version {SPOKEN + 1} of the protocol" in said[0]
    await older.coordinator.pause_migration(ours.id)
    await older.coordinator.work(once=True)
    assert await world.here.migrations.get(migration.id) == before


async def test_what_is_taken_over_between_look_and_change_is_left_as_it_is(world: World) -> None:
    """The statements themselves look: what was read before is of no use."""
    seen = await left_in_dual_write(world)
    journal, owner = world.here.migrations, uuid4()
    before = await world.fingerprint()
    assert not await journal.acquire_lease(seen.id, owner, "older", 60)
    with pytest.raises(ProtocolVersionError):
        await journal.transition(seen, _S.PAUSED)
    # Nor by a repair that has surveyed everything a moment ago.
    await restored.write_migration(
        journal.pool,
        RestoredMigration(
            seen.id, seen.tenant_id, SOURCE, TARGET, _S.PAUSED, _S.PENDING, 0, None, None, None,
            None,
        ),
        seen.config, "ann",
    )  # fmt: skip
    assert await world.fingerprint() == before


async def test_who_waits_for_a_move_hears_that_a_newer_version_has_taken_it_over(
    world: World,
) -> None:
    await world.seed(200)
    older = await world.process(batch_size=1, max_events_per_second=100)
    move = asyncio.create_task(older.coordinator.move(world.tenant, SOURCE, TARGET))
    [row] = await until(
        lambda: world.control.fetch("select id from tenant_migrations where state = 'bulk_copy'"),
        "the copy",
    )
    await taken_over(world, row["id"])
    with pytest.raises(ProtocolVersionError):
        async with asyncio.timeout(5):
            await move


async def test_a_way_back_of_a_newer_version_is_neither_followed_nor_used_nor_ended(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await world.process(keep_way_back=3600.0)
    move = await moved(world, keeper)
    ways = WaysBack(world.here.migrations.pool)
    way = await ways.of_migration(move.id)
    assert way is not None
    await taken_over(world, way.id, "tenant_ways_back")
    calls: dict[str, Callable[[MigrationCoordinator], Awaitable[Any]]] = {
        "return": lambda c: c.return_migration(move.id),
        "close": lambda c: c.close_way_back(move.id),
    }
    for call in calls.values():
        async with refusal(world, ProtocolVersionError, str(move.id), "upgrade this process"):
            await call(keeper.coordinator)
    assert not await ways.follow(way.id, uuid4(), 60)
    assert not await ways.end(way.id, "test", now=True)
    assert not await ways.ask_return(way, {}, None)
    await keeper.append(world.tenant)
    with caplog.at_level(logging.WARNING, "eventsource.migration.driver"):
        async with working(keeper.coordinator):
            await asyncio.sleep(1.0)
    assert caplog.text.count(f"way back {way.id} needs") == 1
    now = await keeper.coordinator.way_back(move.id)
    assert now is not None
    assert (now.state, now.carried, now.followed_at) == ("standby", way.carried, way.followed_at)
    # Also where only the move it belongs to is of a newer version.
    await world.control.execute("update tenant_ways_back set protocol = 1")
    await taken_over(world, move.id)
    async with refusal(world, ProtocolVersionError, str(move.id)):
        await keeper.coordinator.return_migration(move.id)


async def test_a_router_does_not_finish_a_flip_of_a_newer_version(world: World) -> None:
    await world.seed(5)
    migration = await world.migrate()
    await world.target.execute("update eventsource_fences set state = 'closed'")
    await world.control.execute("update tenant_migrations set state = 'cutover_paused'")
    await taken_over(world, migration.id)
    older = await world.process()
    before = await world.fingerprint()
    await flips.finish(older.routes, older.router.stores, world.tenant)
    assert await world.fingerprint() == before
    await world.control.execute("update tenant_migrations set protocol = 1")
    await flips.finish(older.routes, older.router.stores, world.tenant)
    assert await world.target.fetchval("select state from eventsource_fences") == "open"


async def test_a_state_that_only_a_newer_version_knows_is_shown(world: World) -> None:
    migration = await left_in_dual_write(world)
    await world.control.execute("update tenant_migrations set state = 'warming_up'")
    older = await world.process()
    found = await older.coordinator.get_migration(migration.id)
    assert (str(found.state), found.state.is_final) == ("warming_up", False)
    page = await older.coordinator.list_migrations(states=[found.state])
    assert page.migrations == (found,)
    [count] = await older.coordinator.count_migrations(active=True)
    assert (str(count.state), count.migrations) == ("warming_up", 1)
    async with refusal(world, ProtocolVersionError, str(migration.id)):
        await older.coordinator.abort_migration(migration.id)
    report = await older.coordinator.repair(dry_run=True)
    assert not report.changes
    assert "upgrade this process" in report.notes[0]
