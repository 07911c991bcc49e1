"""A pass that somebody's lock holds up says whose it is, and goes on when that is released."""

from __future__ import annotations

import asyncpg
import pytest

from eventsource.migration import MigrationState
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table


@pytest.mark.parametrize(("side", "mode"), [("target", "share"), ("source", "access exclusive")])
async def test_a_pass_that_a_table_lock_holds_up_says_whose_lock_it_is(
    world: World, side: str, mode: str
) -> None:
    """It stood for five minutes without a word, and then said that nothing had moved."""
    await world.seed(5)
    migration = await world.dual_write()
    holder = await asyncpg.connect(
        world.dsns[side], server_settings={"application_name": "nightly maintenance"}
    )
    try:
        await holder.execute("begin")
        if side == "target":
            await holder.execute(f"lock table {table(side)} in {mode} mode")
            await insert(world.source, world.tenant)
        else:
            await insert(world.source, world.tenant)
            await holder.execute(f"lock table {table(side)} in {mode} mode")

        async def is_named() -> bool:
            said = (await world.here.migrations.get(migration.id)).error_message or ""
            who = f"in the way: pid {holder.get_server_pid()}" in said
            return who and "nightly maintenance" in said and f"a lock at the {side}" in said

        await until(is_named, "the session that holds the lock, in the journal")
        await holder.execute("rollback")

        async def is_silent() -> bool:
            return (await world.here.migrations.get(migration.id)).error_message is None

        await until(is_silent, "the end of the wait, in the journal")
    finally:
        await holder.close()
    moved = await world.coordinator.initiate_cutover(migration.id)
    assert moved.state is MigrationState.MIGRATED
    await world.assert_moved(moved)
