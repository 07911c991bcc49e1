"""Readers whose control database is silent, empty, or held by somebody."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import asyncpg
import pytest

from tests.support.application import Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

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
