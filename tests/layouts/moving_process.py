"""A process that moves a tenant of Marten: ``python -m tests.layouts.moving_process DSNS NAME``."""

from __future__ import annotations

import asyncio
import json
import sys

from eventsource.migration import MigrationState
from eventsource.migration.layouts.presets import presets
from tests.support.worlds.layouts import connected


async def main(dsns: dict[str, str], tenant: str, verb: str = "move") -> None:
    world = await connected(presets()["marten"], dsns)
    await world.process(lease_seconds=1.0)
    coordinator = world.coordinators[0]
    if verb == "abort":
        [migration] = await coordinator.get_migrations_by_tenant(tenant)
        await coordinator.abort_migration(migration.id)
    else:
        migration = await world.start(tenant)
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        await coordinator.initiate_cutover(migration.id)
    await world.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), *sys.argv[2:]))
