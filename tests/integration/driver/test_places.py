"""A store is a place and not a name: a process whose address leads elsewhere changes nothing."""

from __future__ import annotations

import contextlib
from uuid import uuid4

import pytest

from eventsource.migration import MigrationState, RoutingError, StoreMismatchError
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import TARGET_TABLE, World

ELSEWHERE = ["another table", "another database", "no table"]


async def mistaken(world: World, how: str) -> Process:
    """A process with another target behind the same name."""
    dsns = dict(world.dsns)
    table = "elsewhere" if how == "another table" else TARGET_TABLE
    if how != "another table":
        world.dsns["target"] = world.dsns["control"]
    try:
        process = await world.process(target_store=lambda pool: PostgreSQLEventStore(pool, table))
    finally:
        world.dsns.update(dsns)
    if how != "no table":
        await process.target.create_schema()
    return process


@pytest.mark.parametrize("how", ELSEWHERE)
async def test_a_process_with_another_target_changes_nothing(world: World, how: str) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    wrong = await mistaken(world, how)
    before = await world.fingerprint()
    with pytest.raises(StoreMismatchError, match="began with"):
        await wrong.coordinator.abort_migration(migration.id)
    with pytest.raises(StoreMismatchError, match="began with"):
        await wrong.coordinator.resume_migration(migration.id)
    with pytest.raises(StoreMismatchError, match="began with"):
        await wrong.coordinator.initiate_cutover(migration.id)
    with pytest.raises(StoreMismatchError, match="began with"):
        await wrong.coordinator.get_sync_lag(migration.id)
    assert await world.fingerprint() == before
    await world.coordinator.resume_migration(migration.id)
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


@pytest.mark.parametrize("how", ELSEWHERE[:2])
async def test_a_driver_with_another_target_waits_and_leaves_the_migration_to_others(
    world: World, how: str
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.close()
    wrong = await mistaken(world, how)
    wrong.coordinator._drivers.ensure(await world.here.migrations.get(migration.id))

    async def said() -> bool:
        wrong.coordinator._drivers.ensure(await world.here.migrations.get(migration.id))
        found = await world.here.migrations.get(migration.id)
        return found.error_code == "store_mismatch"

    await until(said, "the driver to say what is wrong")
    found = await world.here.migrations.get(migration.id)
    assert found.state is MigrationState.DUAL_WRITE
    right = await world.process()
    done = await right.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


@pytest.mark.parametrize("how", ELSEWHERE)
@pytest.mark.parametrize("known", ["by the fence", "by the route"])
async def test_a_router_does_not_follow_a_tenant_to_another_place(
    world: World, how: str, known: str
) -> None:
    stream = uuid4()
    await world.here.append(world.tenant, stream)
    wrong = await mistaken(world, how)
    if known == "by the fence":
        await wrong.router.route(world.tenant)
    await world.migrate()
    for attempt in (
        wrong.append(world.tenant),
        wrong.append(world.tenant, stream, 1),
        wrong.router.get_events(stream, tenant_id=world.tenant),
    ):
        with pytest.raises(RoutingError, match="is not the one that tenant"):
            await attempt
    if how != "no table":
        assert await wrong.target.get_global_position() == 0
    # Who has the right address goes on, and the journal is as it was.
    assert (await world.here.append(world.tenant, stream, 1)).success
    [migration] = await world.here.migrations.get_by_tenant(world.tenant)
    assert migration.state is MigrationState.MIGRATED


async def test_a_router_asks_once_for_each_flip(world: World) -> None:
    stream = uuid4()
    await world.here.append(world.tenant, stream)
    await world.migrate()
    await world.here.append(world.tenant, stream, 1)
    await world.target.execute("alter table eventsource_fences rename to hidden")
    with contextlib.suppress(Exception):
        await world.here.router.get_events(stream, tenant_id=world.tenant)
    assert await world.here.router.get_stream_version(stream, tenant_id=world.tenant) == 2
    await world.target.execute("alter table hidden rename to eventsource_fences")
