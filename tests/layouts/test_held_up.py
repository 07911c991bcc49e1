"""A pass over a library's tables that somebody's lock holds up says whose it is."""

from __future__ import annotations

from uuid import uuid4

import asyncpg

from eventsource.migration import MigrationState
from tests.support import marten
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld


async def test_a_pass_that_a_lock_of_a_companion_holds_up_says_whose_lock_it_is(
    shop: LayoutWorld,
) -> None:
    await marten.append(shop.source, "acme", uuid4(), 2)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    holder = await asyncpg.connect(
        shop.dsns["target"], server_settings={"application_name": "nightly maintenance"}
    )
    try:
        await holder.execute("begin; lock table mt_streams in share mode")
        await marten.append(shop.source, "acme", uuid4(), 3)

        async def said() -> str:
            return str(
                await shop.control.fetchval(
                    "select coalesce(error_message, '') from tenant_migrations where id = $1",
                    migration.id,
                )
            )

        async def is_named() -> bool:
            return f"in the way: pid {holder.get_server_pid()} (nightly" in await said()

        await until(is_named, "the session that holds the lock, in the journal")
    finally:
        await holder.close()
    moved = await shop.coordinators[0].initiate_cutover(migration.id)
    assert moved.state is MigrationState.MIGRATED
    assert await shop.target.fetchval("select count(*) from mt_events") == 5
