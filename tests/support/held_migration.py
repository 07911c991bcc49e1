"""A migration that is held in a state, and what the journal says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from eventsource.migration import Migration
from eventsource.migration.repositories import AuditEntry, PostgreSQLAuditLogRepository
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, someone_blocked

#: Ten chunks of twenty rows, about 70 ms each.
SLOW = {"batch_size": 1, "max_events_per_second": 300}
EVENTS = 200
STATES = ("pending", "bulk_copy", "dual_write")


@asynccontextmanager
async def held_in(
    world: World, state: str, **settings: Any
) -> AsyncIterator[tuple[Migration, dict[str, Any]]]:
    """A migration that another process drives and that stays in ``state`` for a while.

    Also the fingerprint of the databases right before it was started.
    """
    driver = await world.process(**{**(SLOW if state == "bulk_copy" else {}), **settings})
    await world.seed(EVENTS)
    if state == "pending":
        # No trigger can be made beside this.
        async with world.open_transaction(world.other):
            before = await world.fingerprint(journal=False)
            migration = await driver.start(world.tenant, operator="ann")
            await someone_blocked(world, "select%eventsource_guard_renew%")
            yield migration, before
        return
    before = await world.fingerprint(journal=False)
    migration = await driver.start(world.tenant, operator="ann")
    migration = await world.reach(migration, state)
    if state == "bulk_copy":
        await cursor(world)
    yield migration, before


async def cursor(world: World) -> int:
    """Where the copy stands, once it has begun."""
    return await until(
        lambda: world.target.fetchval("select last_position from eventsource_copy_progress"),
        "the first chunk",
    )


async def audit(world: World, migration: Migration) -> list[AuditEntry]:
    log = PostgreSQLAuditLogRepository(world.here.migrations.pool)
    return await log.get_by_migration(migration.id)


async def mirrors(world: World) -> bool:
    await world.here.append(world.tenant)
    stats = world.router.dual_write_stats(world.tenant)
    return stats is not None and stats.mirrored > 0
