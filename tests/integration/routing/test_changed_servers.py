"""A pool connects again by itself, and another server may answer at the address by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import RoutingError, TenantSubscription
from eventsource.stores.interface import StoredEvent
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from eventsource.testing import Cluster
from tests.support.application import TARGET, Noted
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, table


async def go_back(world: World, cluster: Cluster) -> None:
    """The target is as it was before the tenant came, and was started again meanwhile."""
    await world.target.execute("delete from eventsource_fences")
    await world.target.execute(f"alter table {table('target')} disable trigger user")
    await world.target.execute(f"delete from {table('target')}")
    await asyncio.to_thread(cluster.restart)


async def events_at_the_target(world: World) -> int:
    connection = await world.connect("target")
    return int(await connection.fetchval(f"select count(*) from {table('target')}"))


async def closed(world: World) -> None:
    """The pool has heard that its connections are gone, and nobody has used one since."""

    async def heard() -> bool:
        return world.here.target.pool.get_size() == 0

    await until(heard, "connections that are closed")


async def moved_and_gone_back(world: World, cluster: Cluster, *, connections: int = 1) -> None:
    """The tenant has moved and appended, and nobody has used the restored target yet."""
    await world.here.append(world.tenant)
    await world.migrate()
    await asyncio.gather(*(world.here.append(world.tenant) for _ in range(connections)))
    await go_back(world, cluster)
    await closed(world)


async def test_the_first_append_over_a_new_connection_asks_first(
    world: World, target_cluster: Cluster
) -> None:
    await moved_and_gone_back(world, target_cluster)
    for _ in range(3):
        with pytest.raises(RoutingError, match=f"store '{TARGET}' here is not the one"):
            await world.here.append(world.tenant)
    assert await events_at_the_target(world) == 0


async def _all(world: World, backwards: bool = False) -> int:
    router = world.router
    read = router.read_backwards if backwards else router.read_all
    return len([event async for event in read(tenant_id=world.tenant)])


READS: dict[str, Callable[[World], Awaitable[object]]] = {
    "stream": lambda w: w.router.get_events(w.other, "Note", tenant_id=w.tenant),
    "feed": _all,
    "backwards": lambda w: _all(w, backwards=True),
    "version": lambda w: w.router.get_stream_version(w.other, "Note", tenant_id=w.tenant),
    "exists": lambda w: w.router.event_exists(uuid4(), tenant_id=w.tenant),
}


@pytest.mark.parametrize(
    "read",
    [pytest.param(name, marks=() if name == "feed" else pytest.mark.thorough) for name in READS],
)
async def test_the_first_read_over_a_new_connection_asks_first(
    world: World, target_cluster: Cluster, read: str
) -> None:
    await moved_and_gone_back(world, target_cluster)
    for _ in range(2):
        with pytest.raises(RoutingError, match=f"store '{TARGET}' here is not the one"):
            await READS[read](world)
    with pytest.raises(RoutingError):
        await world.here.append(world.tenant)


@pytest.mark.thorough
async def test_a_read_that_is_under_way_asks_before_its_next_page(
    world: World, target_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsource.stores.reading.ChunkSize._FIRST_ROWS", 2)
    await world.migrate()
    for _ in range(9):
        await world.here.append(world.tenant)
    feed = world.router.read_all(tenant_id=world.tenant)
    await anext(feed)
    await go_back(world, target_cluster)
    await closed(world)
    with pytest.raises(RoutingError, match=f"store '{TARGET}' here is not the one"):
        async for _ in feed:
            pass


async def test_a_transaction_over_a_new_connection_asks_first(
    world: World, target_cluster: Cluster
) -> None:
    await moved_and_gone_back(world, target_cluster)

    async def work(transaction: object) -> None:
        stream = uuid4()
        event = Noted(aggregate_id=stream, tenant_id=world.tenant, n=1)
        await transaction.append_events(stream, "Note", [event], 0)  # type: ignore[attr-defined]

    with pytest.raises(RoutingError, match=f"store '{TARGET}' here is not the one"):
        await world.router.transaction(world.tenant, work)
    assert await events_at_the_target(world) == 0


async def test_many_appends_at_once_over_new_connections_all_ask(
    world: World, target_cluster: Cluster
) -> None:
    await moved_and_gone_back(world, target_cluster, connections=8)
    errors = await asyncio.gather(
        *(world.here.append(world.tenant) for _ in range(8)), return_exceptions=True
    )
    assert {type(error) for error in errors} == {RoutingError}
    assert await events_at_the_target(world) == 0


async def test_a_server_that_was_only_started_again_is_used_on(
    world: World, target_cluster: Cluster
) -> None:
    await world.here.append(world.tenant)
    await world.migrate()
    await world.here.append(world.tenant)
    before = len(await world.ids("target"))
    await asyncio.to_thread(target_cluster.restart)
    await closed(world)
    assert await _all(world) == before
    await world.here.append(world.tenant)
    assert await events_at_the_target(world) == before + 1


async def test_a_server_that_was_started_again_is_asked_once_and_not_over_each_connection(
    world: World, target_cluster: Cluster
) -> None:
    """It has answered, and is the one that is meant from then on."""
    asked = 0

    def heard(query: asyncpg.connection.LoggedQuery) -> None:
        nonlocal asked
        asked += "eventsource_fences" in query.query and query.query.startswith("select")

    async def listen(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(heard)

    world.processes.insert(0, await world.process(init=listen))
    await world.here.append(world.tenant)
    await world.migrate()
    await world.here.append(world.tenant)
    await asyncio.to_thread(target_cluster.restart)
    await closed(world)
    await world.here.append(world.tenant)
    before, size = asked, world.here.target.pool.get_size()
    await asyncio.gather(*(world.here.append(world.tenant) for _ in range(8)))
    assert world.here.target.pool.get_size() > size
    assert asked == before


async def test_an_append_that_follows_no_tenant_hears_nothing_of_it(
    world: World, source_cluster: Cluster
) -> None:
    """Over the store itself, or by the router for nobody's event: a new server is no error."""
    store = world.here.source
    await world.here.append(world.tenant)
    await asyncio.to_thread(source_cluster.restart)
    stream, nobodys = uuid4(), uuid4()
    of_tenant = Noted(aggregate_id=stream, tenant_id=world.tenant, n=1)
    of_nobody = Noted(aggregate_id=nobodys, tenant_id=None, n=1)
    assert (await store.append_events(stream, "Note", [of_tenant], 0)).success
    assert (await world.router.append_events(nobodys, "Note", [of_nobody], 0)).success
    await world.here.append(world.tenant)


async def test_a_store_asks_once_for_each_connection(world: World) -> None:
    asked = 0

    def heard(query: asyncpg.connection.LoggedQuery) -> None:
        nonlocal asked
        asked += "pg_postmaster_start_time" in query.query

    async def listen(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(heard)

    pool = await asyncpg.create_pool(world.dsns["source"], min_size=2, max_size=2, init=listen)
    world.here.source.pool, theirs = pool, world.here.source.pool
    for _ in range(10):
        await world.here.append(world.tenant)
    assert 1 <= asked <= 2
    world.here.source.pool = theirs
    pool.terminate()


def subscription_of(world: World, seen: list[StoredEvent]) -> TenantSubscription:
    """Another process would make the same."""

    async def handle(event: StoredEvent) -> None:
        seen.append(event)

    checkpoints = PostgreSQLCheckpointRepository(world.here.control_pool)
    return world.router.subscription("Revenue", checkpoints, handle, poll_interval=0.02)


async def strays(world: World) -> None:
    """What somebody writes at the target while it does not know that the tenant lives there."""
    connection = await world.connect("target")
    await connection.execute(
        f"insert into {table('target')} (event_id, aggregate_id, aggregate_type, event_type,"
        " version, tenant_id, payload, timestamp) values (gen_random_uuid(), gen_random_uuid(),"
        " 'Note', 'Noted', 1, $1, '{}', now())",
        world.tenant,
    )


@pytest.mark.parametrize("router_first", [False, pytest.param(True, marks=pytest.mark.thorough)])
async def test_a_subscription_asks_before_it_reads_over_a_new_connection(
    world: World, target_cluster: Cluster, router_first: bool
) -> None:
    seen: list[StoredEvent] = []
    await PostgreSQLCheckpointRepository(world.here.control_pool).create_schema()
    await world.here.append(world.tenant)
    await world.migrate()
    running = asyncio.create_task(subscription_of(world, seen).run())

    async def delivered() -> bool:
        return len(seen) == 2

    await world.here.append(world.tenant)
    await until(delivered, "both events")
    await go_back(world, target_cluster)
    await strays(world)
    if router_first:
        with pytest.raises(RoutingError):
            await world.here.append(world.tenant)
    with pytest.raises(RoutingError, match=f"store '{TARGET}' here is not the one"):
        await asyncio.wait_for(running, 20)
    assert len(seen) == 2
    # The same once more: it has not come to trust that server.
    with pytest.raises(RoutingError, match=f"store '{TARGET}' here is not the one"):
        await subscription_of(world, seen).run()
    assert len(seen) == 2
