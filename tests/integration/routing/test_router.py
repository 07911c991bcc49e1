"""Routers: whom they ask, how they hear of a move, and what they mirror meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource import OptimisticLockError
from eventsource.errors import ConnectionDetailsError, StoreSchemaError
from eventsource.migration import (
    RoutingError,
    TenantStoreRouter,
    TenantTransaction,
    create_schema,
)
from eventsource.migration.repositories import PostgreSQLRoutingRepository
from eventsource.migration.routing.route_cache import PAGE
from eventsource.stores.interface import StoredEvent
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import InMemoryCheckpointRepository
from tests.support.application import SOURCE, TARGET, Noted, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import World


async def ever_deaf(process: Process, tenant: UUID) -> None:
    """Fill the process's route cache and keep it as it is from then on."""
    await process.router.route(tenant)
    await process.router._routes.close()
    process.router._routes._ensure_keeper = lambda: None  # type: ignore[method-assign]
    process.router._routes._ttl = 3600


async def lives_at(process: Process, tenant: UUID, store_id: str) -> bool:
    return (await process.router.route(tenant)).store_id == store_id


async def test_an_unknown_store_is_an_error_and_never_another_store(world: World) -> None:
    await world.here.append(world.tenant)
    await world.control.execute(
        "update tenant_routing set store_id = 'dedicated-z';"
        " insert into tenant_routing (tenant_id, store_id) values"
        f" ('{world.tenant}', 'dedicated-z') on conflict do nothing"
    )
    router, stream = world.router, uuid4()
    await router._routes.refresh(world.tenant)
    for call in (
        world.here.append(world.tenant, stream),
        router.get_events(stream, "Note", tenant_id=world.tenant),
        router.get_stream_version(stream, "Note", tenant_id=world.tenant),
        router.event_exists(uuid4(), tenant_id=world.tenant),
        anext(router.read_stream(stream, "Note", tenant_id=world.tenant)),
        anext(router.read_all(tenant_id=world.tenant)),
    ):
        with pytest.raises(RoutingError, match="add it to the router's `stores`"):
            await call
    assert len(await world.ids("source")) == 1
    assert await world.ids("target") == []


async def test_a_router_that_lacks_the_target_does_not_write_elsewhere(world: World) -> None:
    here = world.here
    router = TenantStoreRouter(here.source, here.routes, {SOURCE: here.source})
    await world.migrate()
    stream = uuid4()
    event = Noted(aggregate_id=stream, tenant_id=world.tenant)
    with pytest.raises(RoutingError, match=TARGET):
        await router.append_events(stream, "Note", [event], 0)
    await router.close()
    assert await world.ids("source") == await world.ids("target") == []


async def test_a_change_is_heard_long_before_the_route_is_read_again(world: World) -> None:
    elsewhere = await world.process(route_ttl_seconds=600)
    assert await lives_at(elsewhere, world.tenant, SOURCE)
    await until(lambda: _listens(world), "the listener")
    await world.here.routes.set_routing(world.tenant, TARGET)
    await until(lambda: lives_at(elsewhere, world.tenant, TARGET), "the change")


async def _listens(world: World) -> bool:
    return bool(
        await world.control.fetchval(
            # Idle after its first look: what follows is only found by listening, or when due.
            "select count(*) from pg_stat_activity where application_name = 'eventsource-routes'"
            " and datname = current_database() and state = 'idle' and query like '%routing%'"
        )
    )


async def test_a_change_that_nobody_announced_is_found_by_reading_again(world: World) -> None:
    elsewhere = await world.process(route_ttl_seconds=0.1)
    assert await lives_at(elsewhere, world.tenant, SOURCE)
    await until(lambda: _listens(world), "the listener")
    await world.control.execute(
        "insert into tenant_routing (tenant_id, store_id) values ($1, $2)",
        str(world.tenant),
        TARGET,
    )

    async def known_without_being_asked_for() -> bool:
        return elsewhere.router._routes._routes[world.tenant].store_id == TARGET

    await until(known_without_being_asked_for, "the change")


async def test_of_many_known_tenants_an_announced_one_is_read_alone_and_all_in_pages(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them all at once, at each announcement, would hold up the process's other work."""
    read: list[int] = []
    given = PostgreSQLRoutingRepository.get_routings

    async def counted(self: Any, tenants: Any) -> Any:
        read.append(len(tenants))
        return await given(self, tenants)

    elsewhere = await world.process(route_ttl_seconds=600)
    assert await lives_at(elsewhere, world.tenant, SOURCE)
    cache = elsewhere.router._routes
    # Its first look is at what is known by then, which under load was nothing.
    await cache.close()
    cache._ensure_keeper()
    await until(lambda: _listens(world), "the listener")
    monkeypatch.setattr(PostgreSQLRoutingRepository, "get_routings", counted)
    for _ in range(3 * PAGE):
        cache._keep(uuid4(), None)
    await world.here.routes.set_routing(uuid4(), TARGET)
    await world.here.routes.set_routing(world.tenant, TARGET)
    await until(lambda: lives_at(elsewhere, world.tenant, TARGET), "the change")
    assert read == [1]
    cache._ttl = 0.1
    await cache.close()
    cache._ensure_keeper()

    async def all_are_read() -> bool:
        return sum(read) > len(cache._routes)

    await until(all_are_read, "all of them")
    assert max(read) <= PAGE


async def test_a_listener_that_was_cut_off_comes_back(world: World) -> None:
    elsewhere = await world.process(route_ttl_seconds=0.2)
    assert await lives_at(elsewhere, world.tenant, SOURCE)
    await until(lambda: _listens(world), "the listener")
    await world.control.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'eventsource-routes' and datname = current_database()"
    )
    await world.here.routes.set_routing(world.tenant, TARGET)
    await until(lambda: lives_at(elsewhere, world.tenant, TARGET), "the change")
    await until(lambda: _listens(world), "the listener")
    elsewhere.router._routes._ttl = 600
    await world.here.routes.set_routing(world.tenant, SOURCE)
    await until(lambda: lives_at(elsewhere, world.tenant, SOURCE), "the change")


async def test_a_pool_that_does_not_tell_where_it_connects_reads_routes_when_due(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: object) -> None:
        raise ConnectionDetailsError("pass dsn=")

    monkeypatch.setattr("eventsource.migration.routing.route_cache.connection_parameters", silent)
    elsewhere = await world.process(route_ttl_seconds=0.05)
    assert await lives_at(elsewhere, world.tenant, SOURCE)
    await world.here.routes.set_routing(world.tenant, TARGET)
    await until(lambda: lives_at(elsewhere, world.tenant, TARGET), "the change")


async def test_without_the_control_database_a_known_tenant_goes_on(world: World) -> None:
    elsewhere = await world.process(route_ttl_seconds=0.02)
    stream = uuid4()
    await elsewhere.append(world.tenant, stream)
    await ever_deaf(elsewhere, world.tenant)
    elsewhere.router._routes._ttl = 0
    elsewhere.control_pool.terminate()
    assert (await elsewhere.append(world.tenant, stream, 1)).new_version == 2


@pytest.mark.parametrize("knew", ["the old route", "nothing"])
async def test_a_stale_router_follows_the_fence_with_the_same_expected_version(
    world: World, knew: str
) -> None:
    stale = await world.process()
    stream = uuid4()
    await world.here.append(world.tenant, stream, 0, 3)
    await ever_deaf(stale, world.tenant if knew == "the old route" else world.other)
    migration = await world.migrate()
    if knew == "nothing":
        stale.control_pool.terminate()
        known = replace(await stale.router.route(world.other), tenant_id=world.tenant)
        stale.router._routes._keep(world.tenant, known)
    await world.here.append(world.tenant, stream, 3)
    with pytest.raises(OptimisticLockError) as conflict:
        # What the source, where the stream ended, would still take.
        await stale.append(world.tenant, stream, 3)
    assert (conflict.value.expected_version, conflict.value.actual_version) == (3, 4)
    assert (await stale.router.route(world.tenant)).store_id == TARGET
    result = await stale.append(world.tenant, stream, 4, 2)
    assert result.new_version == 6
    assert len(await world.ids("target")) == 6
    await world.assert_moved(migration)


async def test_a_stale_retry_of_an_append_that_had_succeeded_is_a_success(world: World) -> None:
    stale = await world.process()
    stream = uuid4()
    events = [Noted(aggregate_id=stream, tenant_id=world.tenant, n=n) for n in range(3)]
    await ever_deaf(stale, world.tenant)
    first = await stale.router.append_events(stream, "Note", events, 0)
    await world.migrate()
    assert await stale.router.append_events(stream, "Note", events, 0) == first
    assert len(await world.ids("target")) == 3


async def test_reads_follow_the_route(world: World) -> None:
    router, stream = world.router, uuid4()
    await world.here.append(world.tenant, stream, 0, 2)
    foreign = (await world.here.append(world.other)).global_position
    migration = await world.dual_write()
    # What is at the target already is not the tenant's history yet.
    assert await router.get_stream_version(stream, "Note", tenant_id=world.tenant) == 2
    assert [e.global_position async for e in router.read_all(tenant_id=world.tenant)] == [1, 2]
    await world.coordinator.initiate_cutover(migration.id, force=True)
    last = await world.here.append(world.tenant, stream, 2)
    hints: tuple[dict[str, Any], ...] = ({"tenant_id": world.tenant}, {})
    for hint in hints:
        read = await router.get_events(stream, "Note", **hint)
        assert (read.version, [e.payload()["n"] for e in read.events]) == (3, [1, 2, 3])
        assert await router.get_stream_version(stream, "Note", **hint) == 3
        assert [e.version async for e in router.read_stream(stream, "Note", 1, **hint)] == [2, 3]
        assert await router.event_exists(read.events[-1].event_id, **hint)
    feed = [e.global_position async for e in router.read_all(tenant_id=world.tenant)]
    assert feed == [1, 2, last.global_position]
    others = [e.global_position async for e in router.read_all(tenant_id=world.other)]
    assert others == [foreign]


async def test_events_without_a_tenant_go_to_the_default_store(world: World) -> None:
    stream = uuid4()
    event = Noted(aggregate_id=stream)
    await world.router.append_events(stream, "Note", [event], 0)
    assert await world.source.fetchval("select tenant_id is null from events") is True
    assert (await world.router.get_events(stream, "Note")).version == 1


async def test_other_errors_of_the_server_reach_the_application(world: World) -> None:
    await world.source.execute("alter table events add check (payload->>'text' <> 'bad')")
    with pytest.raises(asyncpg.CheckViolationError):
        await world.here.append(world.tenant, text="bad")


async def test_a_router_that_was_made_before_the_control_tables_names_what_is_missing(
    source_dsn: str,
) -> None:
    """And goes on when they are there."""
    tenant, stream = uuid4(), uuid4()
    event = Noted(aggregate_id=stream, tenant_id=tenant)
    async with asyncpg.create_pool(source_dsn, min_size=0, max_size=4) as pool:
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        checkpoints = InMemoryCheckpointRepository()
        async with TenantStoreRouter(
            store, PostgreSQLRoutingRepository(pool), {SOURCE: store}
        ) as router:
            every = router.subscription("all", checkpoints, _ignore)
            some = router.subscription("some", checkpoints, _ignore, [tenant])
            for call in (
                lambda: router.append_events(stream, "Note", [event], 0),
                lambda: router.transaction(tenant, _ignore),
                lambda: router.get_events(stream, tenant_id=tenant),
                lambda: router.route(tenant),
                every.run,
                some.catch_up,
            ):
                with pytest.raises(StoreSchemaError, match="there is no table tenant_routing"):
                    await call()
            await create_schema(pool)
            assert (await router.append_events(stream, "Note", [event], 0)).new_version == 1
            assert await every.catch_up() == await some.catch_up() == 1


async def _ignore(given: object) -> None:
    return


async def test_a_tenant_may_be_named_by_the_text_of_its_id(world: World) -> None:
    """As paths and headers have it: it is the same tenant before, on the way and after."""
    tenant: Any = str(world.tenant).upper()
    router, stream, seen = world.router, uuid4(), list[UUID]()
    await world.here.append(world.tenant, stream, count=3)

    async def see(event: StoredEvent) -> None:
        seen.append(event.event_id)

    subscription = router.subscription("named", InMemoryCheckpointRepository(), see, [tenant])

    async def add(transaction: TenantTransaction) -> str:
        other = uuid4()
        event = Noted(aggregate_id=other, tenant_id=world.tenant)
        await transaction.append_events(other, "Note", [event], 0)
        return transaction.store_id

    assert await router.transaction(tenant, add) == SOURCE
    assert await subscription.catch_up() == 4
    migration = await world.dual_write()
    assert [each async for each in world.here.target.read_all(tenant_id=tenant)] == []
    await world.coordinator.initiate_cutover(migration.id, force=True)
    assert await router.transaction(tenant, add) == TARGET
    await subscription.catch_up()
    assert set(seen) == set(await world.ids("target"))
    assert [each async for each in router.read_all(tenant_id=tenant)][-1].event_id == seen[-1]
    assert (await router.get_events(stream, "Note", tenant_id=tenant)).version == 3
    assert set(router._routes._routes) == {world.tenant}
