"""Readers whose control database is silent, empty, or held by somebody."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import RoutingError, TenantStoreRouter
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import SOURCE, TARGET, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, table

TTL = 0.2


async def _versions(process: Process, world: World, stream: object) -> list[int]:
    found = process.router.read_stream(stream, "Note", tenant_id=world.tenant)  # type: ignore[arg-type]
    return [event.version async for event in found]


async def _reads_all(process: Process, world: World, stream: object) -> bool:
    return await _versions(process, world, stream) == [1, 2, 3, 4, 5]


async def _moved_with_five(world: World, stream: object) -> None:
    """Three events of the stream at the source and, after the move, two more at the target."""
    await world.here.append(world.tenant, stream, count=3)  # type: ignore[arg-type]
    await world.migrate()
    await world.here.append(world.tenant, stream, 3, count=2)  # type: ignore[arg-type]


async def test_a_reader_follows_the_fence_when_control_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = uuid4()
    await world.here.append(world.tenant, stream, count=3)
    reader = await world.process(route_ttl_seconds=TTL)
    assert await _versions(reader, world, stream) == [1, 2, 3]
    await reader.router._routes.close()

    async def away(*_: object) -> None:
        raise ConnectionRefusedError

    reader.router._routes._ensure_keeper = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr(reader.routes, "get_routing", away)
    await world.migrate()
    await world.here.append(world.tenant, stream, 3, count=2)
    await until(lambda: _reads_all(reader, world, stream), "all five", 5)


@pytest.mark.parametrize("lost", ["the route", "all of it"])
async def test_a_new_reader_follows_the_fence_when_control_knows_nothing(
    world: World, lost: str
) -> None:
    stream = uuid4()
    await _moved_with_five(world, stream)
    await world.control.execute("delete from tenant_routing")
    if lost == "all of it":
        await world.control.execute("truncate tenant_migrations cascade")
    reader = await world.process(route_ttl_seconds=TTL)
    assert await _versions(reader, world, stream) == [1, 2, 3, 4, 5]
    assert await reader.router.get_stream_version(stream, "Note", tenant_id=world.tenant) == 5
    # And it stays so when the routes are read again.
    await asyncio.sleep(4 * TTL)
    assert await _versions(reader, world, stream) == [1, 2, 3, 4, 5]


async def test_a_reader_whose_role_may_not_ask_reads_where_the_route_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = uuid4()
    await world.here.append(world.tenant, stream, count=3)
    reader = await world.process(route_ttl_seconds=TTL)
    await world.source.execute("alter table eventsource_fences rename to hidden")
    try:
        assert await _versions(reader, world, stream) == [1, 2, 3]
    finally:
        await world.source.execute("alter table hidden rename to eventsource_fences")


@pytest.mark.alone
async def test_a_route_that_cannot_be_read_again_holds_nobody_up(world: World) -> None:
    """Somebody holds the routing table, as a report under a schema change does."""
    here = await world.process(route_ttl_seconds=TTL)
    await here.append(world.tenant)
    holder: asyncpg.Connection = await world.connect("control")
    await holder.execute("begin; lock table tenant_routing in access exclusive mode")
    longest, appended, ends = 0.0, 0, time.monotonic() + 4
    while time.monotonic() < ends:
        began = time.monotonic()
        await here.append(world.tenant)
        longest, appended = max(longest, time.monotonic() - began), appended + 1
    await holder.execute("rollback")
    assert longest < 1.0
    assert appended > 8


@pytest.mark.parametrize("away", ["the default", "another"])
async def test_a_stream_is_found_without_its_tenant_while_a_store_is_away(
    world: World, away: str
) -> None:
    """A store that is down concerns its own tenants."""
    stream = uuid4()
    await _moved_with_five(world, stream)
    here = world.here
    new, nowhere = uuid4(), uuid4()
    await here.append(world.tenant, new, count=2)
    async with asyncpg.create_pool("postgresql://127.0.0.1:1/gone", min_size=0) as gone:
        lost = PostgreSQLEventStore(gone)
        default = lost if away == "the default" else here.source
        stores = {SOURCE: default, "gone": lost, TARGET: here.target}
        async with TenantStoreRouter(default, here.routes, stores) as router:
            for each, version in ((stream, 5), (new, 2)):
                assert (await router.get_events(each)).version == version
                assert await router.get_stream_version(each) == version
                found = [event.event_id async for event in router.read_stream(each)]
                assert len(found) == version
                assert await router.event_exists(found[-1])
            # Where it is not found, it may be in the one that is away.
            for call in (
                router.get_events(nowhere),
                router.get_stream_version(nowhere),
                router.event_exists(nowhere),
            ):
                with pytest.raises(ConnectionRefusedError):
                    await call


async def test_a_stream_that_is_read_through_a_move_and_its_cleanup_is_whole(
    world: World,
) -> None:
    """Its old rows are removed before the reader comes to them."""
    keeper = await world.process(keep_way_back="1h")
    stream, router = uuid4(), world.router
    await world.here.append(world.tenant, stream, count=700)
    readers = [
        router.read_stream(stream, "Note", tenant_id=world.tenant),
        router.read_stream(stream, "Note", 3, tenant_id=world.tenant),
        router.read_stream(stream),
    ]
    feeds = [
        router.read_all(tenant_id=world.tenant),
        router.read_backwards(tenant_id=world.tenant),
    ]
    found = [[(await anext(reader)).version] for reader in readers]
    for feed in feeds:
        await anext(feed)
    migration = await world.dual_write(process=keeper)
    await keeper.coordinator.initiate_cutover(migration.id)
    await world.here.append(world.tenant, stream, 700)
    await keeper.coordinator.close_way_back(migration.id)
    await keeper.coordinator.cleanup(migration.id, backed_up=True)
    assert await world.ids("source") == []
    for versions, reader in zip(found, readers, strict=True):
        versions += [event.version async for event in reader]
        assert versions == list(range(versions[0], 702))
    for feed in feeds:
        with pytest.raises(RoutingError, match="read it again where it lives now"):
            async for _ in feed:
                pass


async def test_what_was_removed_in_front_of_a_reader_is_read_where_the_tenant_lives(
    world: World,
) -> None:
    """Half of the old rows are gone: what is left begins after a gap."""
    stream = uuid4()
    await world.here.append(world.tenant, stream, count=700)
    reader = world.router.read_stream(stream, "Note", tenant_id=world.tenant)
    versions = [(await anext(reader)).version]
    await world.migrate()
    await world.source.execute(
        f"alter table {table('source')} disable trigger user;"
        f" delete from {table('source')} where aggregate_id = '{stream}' and version <= 500;"
        f" alter table {table('source')} enable trigger user"
    )
    versions += [event.version async for event in reader]
    assert versions == list(range(1, 701))


@pytest.mark.parametrize("moves", [False, True])
async def test_a_read_for_one_tenant_gives_nothing_of_another(world: World, moves: bool) -> None:
    """They share a store before a move, and after it the old rows are still in that store."""
    stream, router = uuid4(), world.router
    await world.here.append(world.tenant, stream, count=2)
    if moves:
        await world.migrate()
        await world.here.append(world.tenant, stream, 2)
    whole = 3 if moves else 2
    events = (await router.get_events(stream, "Note")).events
    assert len(events) == whole
    for tenant, count in ((world.tenant, whole), (world.other, 0), (str(world.other), 0)):
        given: Any = {"tenant_id": tenant}
        for name in ("Note", None):
            found = await router.get_events(stream, name, **given)
            assert (len(found.events), found.version) == (count, count)
            assert len([each async for each in router.read_stream(stream, name, **given)]) == count
            assert await router.get_stream_version(stream, name, **given) == count
        assert await router.event_exists(events[0].event_id, **given) == (count > 0)
