"""A return that was decided, and whose target went back to a moment before it was opened."""

from __future__ import annotations

from typing import Any

import pytest

from eventsource.migration import Migration
from tests.support.application import SOURCE, Process
from tests.support.there_and_back import appended, assert_home, moved, versions, whole
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, table

PROGRESS = "eventsource_copy_progress"


async def carried(world: World, keeper: Process, migration: Migration) -> dict[str, Any]:
    """The progress row of the way back once it holds everything that there is."""
    await keeper.coordinator._drivers._follower.turn()
    row = await world.source.fetchrow(
        f"select * from {PROGRESS} where migration_id <> $1", migration.id
    )
    assert row is not None
    return dict(row)


async def gone_back(world: World, way_id: Any, before: dict[str, Any], kept: list[Any]) -> None:
    """The old store is as it was before the return: fence, progress and rows."""
    await world.source.execute(f"alter table {table('source')} disable trigger all")
    await world.source.execute(
        f"delete from {table('source')} where tenant_id = $1 and event_id <> all ($2::uuid[])",
        world.tenant, kept,
    )  # fmt: skip
    await world.source.execute(f"alter table {table('source')} enable trigger all")
    await world.source.execute(
        "update eventsource_fences set state = 'standby', generation = -1"
        " where migration_id = $1 and role = 'target'",
        way_id,
    )
    await world.source.execute(f"delete from {PROGRESS} where migration_id = $1", way_id)
    columns = ", ".join(before)
    values = ", ".join(f"${number}" for number in range(1, len(before) + 1))
    await world.source.execute(
        f"insert into {PROGRESS} ({columns}) values ({values})", *before.values()
    )
    await world.source.execute(f"select eventsource_guard_renew('{table('source')}'::regclass)")
    await world.control.execute(
        "update tenant_migrations set state = 'cutover_paused' where id = $1", way_id
    )


@pytest.mark.parametrize("followed", [True, False])
async def test_what_the_old_store_lacks_is_carried_again_before_it_opens(
    world: World, keeper: Process, followed: bool
) -> None:
    migration = await moved(world, keeper)
    if followed:
        await appended(keeper, world.tenant)
    before = await carried(world, keeper, migration)
    kept = await world.ids("source")
    await appended(keeper, world.tenant)
    home = await world.ids("target")
    back = await keeper.coordinator.return_migration(migration.id)
    await gone_back(world, back.id, before, kept)
    keeper.coordinator._drivers.ensure(await keeper.migrations.get(back.id))
    await world.reach(back, "migrated")
    assert await world.ids("source") == home
    assert whole(await versions(world, "source"))
    await assert_home(world, keeper, "source", SOURCE)


@pytest.mark.parametrize("lost", ["new at home", "old at the old store"])
async def test_nothing_is_opened_over_a_gap(world: World, keeper: Process, lost: str) -> None:
    migration = await moved(world, keeper)
    before = await carried(world, keeper, migration)
    kept = await world.ids("source")
    await appended(keeper, world.tenant)
    back = await keeper.coordinator.return_migration(migration.id)
    await gone_back(world, back.id, before, kept)
    side, order = ("target", "desc") if lost == "new at home" else ("source", "asc")
    looking = getattr(world, side)
    await looking.execute(f"alter table {table(side)} disable trigger all")
    await looking.execute(
        f"delete from {table(side)} where event_id = (select event_id from {table(side)}"
        f" where tenant_id = $1 order by global_position {order} limit 1)",
        world.tenant,
    )
    await looking.execute(f"alter table {table(side)} enable trigger all")
    await looking.execute(f"select eventsource_guard_renew('{table(side)}'::regclass)")
    keeper.coordinator._drivers.ensure(await keeper.migrations.get(back.id))

    async def said() -> bool:
        found = await world.here.migrations.get(back.id)
        return "nothing is opened" in (found.error_message or "")

    await until(said, "the driver to say what is missing")
    state = await world.source.fetchval(
        "select state from eventsource_fences where migration_id = $1 and role = 'target'", back.id
    )
    assert state == "standby"
