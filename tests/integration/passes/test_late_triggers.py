"""A trigger that comes to the target after a move has begun fires for nothing that is carried."""

from __future__ import annotations

import pytest

from eventsource.migration import MigrationState, PreflightError
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table

_NOTING = """
create table seen (event_id uuid);
create function note() returns trigger language plpgsql as
    $$ begin insert into seen values (new.event_id); return new; end $$;
create trigger note {when} insert on {table} for each row {condition} execute function note()
"""
_ASIDE = "when (current_setting('eventsource.migration', true) is null)"


async def noting(world: World, side: str, when: str = "after", condition: str = "") -> None:
    await getattr(world, side).execute(
        _NOTING.format(when=when, table=table(side), condition=condition)
    )


async def unmade(world: World, side: str) -> None:
    await getattr(world, side).execute(
        "drop function if exists note() cascade; drop table if exists seen"
    )


async def seen(world: World, side: str = "target") -> int:
    found: int = await getattr(world, side).fetchval("select count(*) from seen")
    return found


@pytest.mark.parametrize("when", ["before", "after"])
async def test_no_pass_carries_events_past_it(world: World, when: str) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    await noting(world, "target", when)
    try:
        await insert(world.source, world.tenant)

        async def waits() -> bool:
            now = await world.here.migrations.get(migration.id)
            return now.is_waiting and "trigger 'note'" in (now.error_message or "")

        await until(waits, "a driver that waits for the trigger")
        with pytest.raises(PreflightError, match="trigger 'note'"):
            await world.coordinator.initiate_cutover(migration.id)
        assert await seen(world) == 0
        await world.target.execute(f"alter table {table('target')} disable trigger note")
        moved = await world.coordinator.initiate_cutover(migration.id)
        assert moved.state is MigrationState.MIGRATED
        assert await seen(world) == 0
        assert len(await world.ids("target")) == 6
    finally:
        await unmade(world, "target")


async def test_one_that_steps_aside_stops_no_pass(world: World) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    await noting(world, "target", condition=_ASIDE)
    try:
        await insert(world.source, world.tenant)
        moved = await world.coordinator.initiate_cutover(migration.id)
        assert moved.state is MigrationState.MIGRATED
        assert await seen(world) == 0
    finally:
        await unmade(world, "target")
