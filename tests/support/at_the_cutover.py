"""What the tests of the cutover share: where everything stands, and a driver that is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from eventsource.migration import Migration
from tests.support.application import SOURCE, TARGET, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert

BUDGET = 1.0
MARGIN = 0.25

WAITS_FOR_THE_LOCK = (
    "select exists (select from pg_locks where locktype = 'advisory' and not granted"
    " and mode = 'ExclusiveLock' and database = (select oid from pg_database"
    " where datname = current_database()))"
)


async def assert_still_at_the_source(world: World) -> None:
    """Nothing was flipped and the tenant's writers are not held up."""
    fence = await world.source.fetchrow("select state, generation from eventsource_fences")
    assert tuple(fence) == ("open", 0)
    assert await world.target.fetchval("select state from eventsource_fences") == "closed"
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.generation) == (SOURCE, 0)
    await insert(await world.connect(lock_timeout="500ms"), world.tenant)


async def assert_at_the_target(world: World, migration: Migration) -> None:
    """State, route and both fences agree, and a new event goes there."""
    done = await world.reach(migration, "migrated")
    route = await world.here.routes.get_routing(world.tenant)
    assert route is not None
    assert (route.store_id, route.migration_state, route.generation) == (TARGET, "normal", 1)
    assert await world.source.fetchval("select state from eventsource_fences") == "moved"
    assert await world.target.fetchval("select state from eventsource_fences") == "open"
    with pytest.raises(asyncpg.PostgresError) as refused:
        await insert(world.source, world.tenant)
    assert refused.value.sqlstate == "EVF01"
    await insert(await world.connect("target"), world.tenant, side="target")
    await world.assert_moved(done)


async def asked_while_held(
    world: World, process: Process, migration: Migration
) -> asyncio.Task[Migration]:
    """Ask for the cutover and wait until it waits for a transaction that the test holds."""
    asked = asyncio.create_task(process.coordinator.initiate_cutover(migration.id, force=True))
    await until(lambda: waits_for_the_lock(world), "the cutover at the lock")
    return asked


async def waits_for_the_lock(world: World) -> bool:
    return bool(await world.source.fetchval(WAITS_FOR_THE_LOCK))


async def stands_in(world: World, migration: Migration, state: str) -> bool:
    return (await world.here.migrations.get(migration.id)).state == state


class Stop:
    """Makes the driver hang at a function of a module, as one that dies there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
        self.reached = asyncio.Event()
        self._monkeypatch, self._where, self._name = monkeypatch, where, name
        self._original = getattr(where, name)

        async def hang(*_: Any, **__: Any) -> None:
            self.reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(where, name, hang)

    async def kill(self, driver: Process) -> None:
        await asyncio.wait_for(self.reached.wait(), 20)
        await driver.stop()
        self._monkeypatch.setattr(self._where, self._name, self._original)
