"""Calls of `move` in the world of three databases, and copies that can be met on their way."""

from __future__ import annotations

import asyncio
from typing import Any

from eventsource.migration import Migration
from tests.support.application import SOURCE, TARGET, Process
from tests.support.held_migration import cursor
from tests.support.worlds.three_databases import World

#: So slow that a copy of 200 events is under way also on a busy machine.
CRAWLING: dict[str, Any] = {"batch_size": 1, "max_events_per_second": 50}


async def move(process: Process, world: World, **options: Any) -> Migration | None:
    async with asyncio.timeout(60):
        return await process.coordinator.move(world.tenant, SOURCE, TARGET, **options)


async def copying(world: World) -> Process:
    """A process whose copy of the tenant has begun and takes a while."""
    slow = await world.process(**CRAWLING)
    await slow.start(world.tenant)
    await cursor(world)
    return slow


async def migrations(world: World) -> list[str]:
    """The states of all migrations of the tenant, oldest first."""
    rows = await world.control.fetch(
        "select state from tenant_migrations where tenant_id = $1 order by created_at",
        str(world.tenant),
    )
    return [row[0] for row in rows]
