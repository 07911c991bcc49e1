"""Passes over a large transaction: what was committed meanwhile waits no longer than needed."""

from __future__ import annotations

import asyncio

from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, someone_blocked


async def test_a_long_pass_is_followed_by_another_at_once(world: World) -> None:
    process = await world.process(batch_size=10, pass_interval_seconds=6)
    await world.dual_write(process=process)
    holder = await world.connect("control")
    async with holder.transaction():
        await holder.execute("lock table migration_position_mappings in exclusive mode")
        await world.seed(250)
        await someone_blocked(world, "%migration_position_mappings%", "control")
        # After the snapshot of the pass that carries the others.
        small = (await insert(world.source, world.tenant))["event_id"]

    async def it_is_there() -> bool:
        return small in await world.ids("target")

    await asyncio.wait_for(until(it_is_there, "what was committed meanwhile"), 3)
