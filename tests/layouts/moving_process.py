"""A process that moves a tenant: ``python -m tests.layouts.moving_process DSNS NAME``.

Of Marten, or of the layout that `PRESET` in the environment names, or `DECLARED` declares as TOML.
From `WORTH_IT` rows on it loads an empty target without its indexes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tomllib

from eventsource.migration import MigrationState
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.presets import presets
from eventsource.migration.layouts.reading import layout_of
from eventsource.migration.tables import deferred_indexes
from tests.support.worlds.layouts import connected


def declared() -> Layout:
    if "DECLARED" not in os.environ:
        return presets()[os.environ.get("PRESET", "marten")]
    [(name, entry)] = tomllib.loads(os.environ["DECLARED"])["layouts"].items()
    return layout_of(name, entry)


async def main(dsns: dict[str, str], tenant: str, verb: str = "move") -> None:
    deferred_indexes.WORTH_IT = int(os.environ.get("WORTH_IT", deferred_indexes.WORTH_IT))
    world = await connected(declared(), dsns, os.environ.get("DECLARED_SCHEMA"))
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
