"""A pass that somebody's lock holds up says whose it is, and goes on when that is released."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.migration.connections import blockers
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


async def test_who_holds_up_several_sessions_is_named_once(world: World) -> None:
    holder, *waiting = [await asyncpg.connect(world.dsns["target"]) for _ in range(4)]
    try:
        await holder.execute(f"begin; lock table {table('target')} in access exclusive mode")
        pids = [each.get_server_pid() for each in waiting]
        asked = [
            asyncio.create_task(each.fetchval(f"select count(*) from {table('target')}"))
            for each in waiting
        ]

        async def all_wait() -> bool:
            found: int = await world.target.fetchval(
                "select count(*) from pg_stat_activity"
                " where pid = any ($1::int[]) and wait_event_type = 'Lock'", pids,
            )  # fmt: skip
            return found == len(pids)

        await until(all_wait, "three sessions that wait for the lock")
        found = await blockers.of_sessions(world.target, pids)
        assert [each.pid for each in found] == [holder.get_server_pid()]
        await holder.execute("rollback")
        await asyncio.gather(*asked)
    finally:
        for each in (holder, *waiting):
            await each.close()
