"""A migration that is over is aborted again where a store has its fence again, and no other one."""

from __future__ import annotations

from eventsource.migration.repositories import restored
from tests.support.worlds.three_databases import World


async def asked(world: World) -> list[str]:
    rows = await world.control.fetch(
        "select operator from migration_audit_log where event_type = 'abort_requested' order by id"
    )
    return [row["operator"] for row in rows]


async def test_one_that_is_driven_is_left_to_its_driver(world: World) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    pool = world.here.control_pool
    assert not await restored.request_abort_again(pool, migration.id, "it is back", "ada")
    now = await world.here.migrations.get(migration.id)
    assert (now.state, now.abort_requested) == ("dual_write", None)
    assert await asked(world) == []


async def test_one_that_is_over_is_failed_until_it_is_cleaned(world: World) -> None:
    """It may not be resumed meanwhile: its rows are being deleted."""
    await world.seed(5)
    migration = await world.dual_write()
    await world.coordinator.abort_migration(migration.id, operator="bob")
    await world.coordinator.close()
    pool = world.here.control_pool
    assert await restored.request_abort_again(pool, migration.id, "it is back", "ada")
    now = await world.here.migrations.get(migration.id)
    assert (now.state, now.abort_requested, now.paused_from) == ("failed", "it is back", None)
    assert not now.may_resume
    assert await asked(world) == ["bob", "ada"]
