"""A database goes back in time under a move: nothing that any store still holds is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import pytest

from eventsource.migration import (
    MigrationState,
    RoutingError,
    StoreGoneBackError,
)
from eventsource.testing import Cluster
from tests.support.application import SOURCE, TARGET
from tests.support.waiting import until
from tests.support.worlds.restorable import RestorableWorld, open_restorable, three_volumes
from tests.support.worlds.three_databases import World, table


@pytest.fixture(scope="module")
def volumes() -> Iterator[dict[str, Cluster]]:
    with three_volumes() as servers:
        yield servers


@pytest.fixture
async def it(volumes: dict[str, Cluster]) -> AsyncIterator[RestorableWorld]:
    opened = await open_restorable(volumes)
    yield opened
    await opened.world.close()


@pytest.mark.parametrize("state", ["bulk_copy", "dual_write", "paused"])
async def test_an_abort_does_not_delete_what_an_open_target_has_acknowledged(
    it: RestorableWorld, state: str
) -> None:
    world = it.world
    await world.seed(300)
    migration = await world.dual_write()
    if state == "paused":
        await world.coordinator.pause_migration(migration.id)
    copies = await it.snapshot("source", "control")
    if state == "bulk_copy":
        await world.control.execute("update tenant_migrations set state = 'bulk_copy'")
    if state == "paused":
        await world.coordinator.resume_migration(migration.id)
    await world.coordinator.initiate_cutover(migration.id)
    acknowledged = await it.append(6)

    await it.restore(copies)
    assert (await it.fence("source"), await it.fence("target")) == (
        ("source", "open"),
        ("target", "open"),
    )
    before = await world.rows("target")
    with pytest.raises(StoreGoneBackError, match="was opened at the target"):
        await world.coordinator.abort_migration(migration.id)
    assert await world.rows("target") == before
    assert set(acknowledged) <= await it.held()
    # The source says again that the tenant has left, and the journal goes on to where that leads.
    assert await it.fence("source") == ("source", "moved")
    assert await it.fence("target") == ("target", "open")
    found = await world.here.migrations.get(migration.id)
    assert "delete" not in (found.error_message or "")
    if state == "paused":
        assert (found.state, found.error_code) == (MigrationState.PAUSED, "store_gone_back")
        await world.coordinator.resume_migration(migration.id)
    await world.reach(migration, "migrated")
    assert await world.rows("target") == before


@pytest.mark.parametrize("since", ["before the move", "dual_write"])
async def test_a_target_that_went_back_is_opened_only_with_everything_in_it(
    it: RestorableWorld, since: str
) -> None:
    """Routers meet it first: the move was finished long ago."""
    world = it.world
    await world.seed(300)
    copies = {}
    if since == "before the move":
        copies = await it.snapshot("target")
    migration = await world.dual_write()
    if since == "dual_write":
        copies = await it.snapshot("target")
    held_back = await it.append(3)
    done = await world.coordinator.initiate_cutover(migration.id)
    decided = await world.ids("source")
    assert set(held_back) <= set(decided)

    await it.restore(copies)
    await _works_until_an_append(world)
    there = await world.ids("target")
    assert there[: len(decided)] == decided
    assert len(there) == len(decided) + 1
    await world.reach(migration, "migrated")
    await world.assert_moved(done)
    assert await it.fence("target") == ("target", "open")
    route = await world.router.route(world.tenant)
    assert (route.store_id, route.generation, route.migration_state) == (TARGET, 1, "normal")


async def _works_until_an_append(world: World) -> None:
    working = asyncio.create_task(world.coordinator.work(poll_seconds=0.1))

    async def appended() -> bool:
        try:
            return (await world.here.append(world.tenant)).success
        except RoutingError:
            # Without any fence the database may as well be another one.
            return False

    try:
        await until(appended, "an append at the target")
    finally:
        working.cancel()


@pytest.mark.parametrize("back_to", ["before", "dual_write"])
async def test_a_target_that_went_back_gets_what_its_way_back_had_carried(
    volumes: dict[str, Cluster], back_to: str
) -> None:
    """At the positions that it had: a checkpoint above them would skip it at others."""
    it = await open_restorable(volumes, keep_way_back="1h")
    world = it.world
    await world.seed(30)
    await world.seed(5, world.other)
    copies = await it.snapshot("target") if back_to == "before" else {}
    migration = await world.dual_write()
    if back_to == "dual_write":
        await it.append(3)
        copies = await it.snapshot("target")
    await world.coordinator.initiate_cutover(migration.id)
    acknowledged = await it.append(4)
    await world.coordinator._drivers._follower.turn()
    before = await _positions(world)
    assert set(acknowledged) <= set(await world.ids("source"))

    await it.restore(copies)
    await world.coordinator.repair()
    await asyncio.wait_for(world.coordinator.work(once=True), 60)
    assert (await world.here.migrations.get(migration.id)).state is MigrationState.MIGRATED
    after = await _positions(world)
    if back_to == "dual_write":
        assert after == before
    # Others may have been given those of a target that knows of nothing: never a lower one.
    assert all(after[each] >= before[each] for each in before)
    assert sorted(after, key=lambda each: after[each]) == sorted(before, key=lambda e: before[e])
    report = await world.coordinator.repair()
    assert (report.changes, report.notes) == ((), ())
    # And the way back stands: nothing of it is copied twice, and the tenant returns by it.
    await it.append(2)
    await world.coordinator._drivers._follower.turn()
    way = await world.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.shown, way.reason, way.lag) == ("armed", None, 0)
    assert await world.ids("source") == await world.ids("target")
    await world.coordinator.return_migration(migration.id)
    assert (await world.router.route(world.tenant)).store_id == SOURCE
    await world.here.append(world.tenant)
    await world.close()


async def _positions(world: World) -> dict[UUID, int]:
    """Where the tenant's events are at the target."""
    rows = await world.target.fetch(
        f"select event_id, global_position from {table('target')} where tenant_id = $1",
        world.tenant,
    )
    return {row["event_id"]: row["global_position"] for row in rows}


@pytest.mark.parametrize("by", ["a pass", "the mirror"])
async def test_a_source_that_went_back_is_not_moved_however_much_was_written_since(
    it: RestorableWorld, by: str
) -> None:
    """Transaction ids and positions are as expected again; barrier or events are missing."""
    world = it.world
    await world.seed(100)
    migration = await world.dual_write()
    copies = await it.snapshot("source")
    await world.coordinator.resume_migration(migration.id)
    if by == "the mirror":
        await world.coordinator.pause_migration(migration.id)
    seen = await world.here.migrations.get(migration.id)
    acknowledged = await it.append(6)

    async def arrived() -> bool:
        return set(acknowledged) <= set(await world.ids("target"))

    await until(arrived, "the events at the target")
    if by == "a pass":
        await asyncio.sleep(0.5)
        await world.coordinator.pause_migration(migration.id)
    assert seen.state in ("dual_write", "paused")
    await it.restore(copies)
    for _ in range(60):
        await world.here.append(world.tenant)
    await world.control.execute(
        "update tenant_migrations set state = 'dual_write', paused_from = null"
    )
    with pytest.raises(StoreGoneBackError, match="Nothing was changed"):
        await world.coordinator.initiate_cutover(migration.id, force=True)
    assert (await it.fence("source"), await it.fence("target")) == (
        ("source", "open"),
        ("target", "closed"),
    )
    assert set(acknowledged) <= await it.held()
    await world.coordinator.abort_migration(migration.id)
    rescued = await world.target.fetch("select event_id from eventsource_rescued_events")
    assert {row[0] for row in rescued} == set(acknowledged)
    assert (await world.here.append(world.tenant)).success
