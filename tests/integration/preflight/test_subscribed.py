"""A side whose tables another database feeds by logical replication."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table, takes_tenants


@pytest.fixture(scope="module")
def publisher() -> Iterator[Cluster]:
    with Cluster.start(16, {"wal_level": "logical"}, fsync=False) as cluster:
        yield cluster


@asynccontextmanager
async def fed(world: World, publisher: Cluster, side: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database whose event table a side subscribes to."""
    dsn = await publisher.create_database()
    name = f"sub_{urlsplit(dsn).path[1:]}"
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        await PostgreSQLEventStore(pool, table(side).strip('"')).create_schema()
    there, here = await asyncpg.connect(dsn), getattr(world, side)
    await takes_tenants(there)
    await there.execute(f"create publication fed for table {table(side)}")
    await here.execute(f"create subscription {name} connection '{dsn}' publication fed")
    try:
        yield there
    finally:
        await here.execute(f"alter subscription {name} disable")
        await here.execute(f"drop subscription {name}")
        await there.close()


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_subscription_that_would_stop_for_everybody_is_named(
    world: World, publisher: Cluster, side: str
) -> None:
    async with fed(world, publisher, side):
        here = world.here
        found = await here.coordinator.preflight(world.tenant, here.source, here.target)
        [named] = [each for each in found.found if each.kind == "subscribed"]
        assert (named.side, named.refuses) == (side, False)
        assert "sub_db_" in named.text
        assert found.problems == []
    found = await here.coordinator.preflight(world.tenant, here.source, here.target)
    assert "subscribed" not in {each.kind for each in found.found}


async def test_what_a_subscription_brings_is_carried_and_then_refused(
    world: World, publisher: Cluster
) -> None:
    """Its worker walks past ordinary triggers, and writes ids and positions of another cluster."""
    positions = f"pg_get_serial_sequence('{table('source')}', 'global_position')"
    await world.source.execute(f"select setval({positions}, 1000)")
    # Its ids are of the past here; those of the future are refused.
    await world.source.execute(
        "do $$ begin for i in 1..2000 loop perform pg_current_xact_id(); commit; end loop; end $$"
    )
    async with fed(world, publisher, "source") as there:

        async def brought(count: int) -> None:
            before = len(await world.ids("source"))
            for _ in range(count):
                await insert(there, world.tenant, side="source")

            async def arrived() -> bool:
                return len(await world.ids("source")) == before + count

            await until(arrived, "what the subscription brings")

        await brought(5)
        migration = await world.dual_write()
        await brought(5)
        done = await world.coordinator.initiate_cutover(migration.id)
        await world.assert_moved(done)
        kept = await world.ids("source")
        await insert(there, world.tenant, side="source")
        await asyncio.sleep(0.5)
        assert await world.ids("source") == kept
        assert len(kept) == 10
