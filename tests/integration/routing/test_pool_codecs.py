"""An application sets codecs on its pools; ours are the same pools."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.declared import moment_of
from eventsource.errors import StreamTenantError
from eventsource.stores.interface import StoredEvent
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from tests.support.application import Noted, writing
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert


async def uuids_as_text(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)


async def moments_as_text(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=datetime.isoformat, decoder=str
    )


async def documents(connection: asyncpg.Connection) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads
        )


async def everything(connection: asyncpg.Connection) -> None:
    for init in (uuids_as_text, moments_as_text, documents):
        await init(connection)


@pytest.mark.parametrize("init", [uuids_as_text, moments_as_text, everything])
async def test_codecs_of_the_application_change_nothing_in_the_life_of_a_tenant(
    world: World, init: Any
) -> None:
    process = await world.process(init=init, keep_way_back="1h")
    checkpoints = PostgreSQLCheckpointRepository(process.control_pool)
    await checkpoints.create_schema()
    seen: Counter[UUID] = Counter()

    async def handle(event: StoredEvent) -> None:
        assert isinstance(event.tenant_id, UUID)
        assert isinstance(event.aggregate_id, UUID)
        assert isinstance(event.timestamp, datetime)
        assert event.event.tenant_id == world.tenant
        seen[event.event_id] += 1

    async def saw_all(side: str) -> bool:
        return set(await world.ids(side)) <= seen.keys()

    subscription = process.router.subscription("Revenue", checkpoints, handle, poll_interval=0.05)
    running = asyncio.create_task(subscription.run())
    async with writing(process, world.tenant, 2):
        await until(lambda: saw_all("source"), "the events before the move")
        migration = await process.start(world.tenant)
        await world.reach(migration, "dual_write")
        migration = await process.coordinator.initiate_cutover(migration.id)
        await process.append(world.tenant)
        await until(lambda: saw_all("target"), "the events after the move")
        back = await process.coordinator.return_migration(migration.id)
        await process.append(world.tenant)
    await until(lambda: saw_all("source"), "the events after the return")
    subscription.stop()
    await running
    await process.coordinator.close_way_back(back.id)
    await process.coordinator.cleanup(back.id, backed_up=True)
    assert await world.ids("target") == []
    routers = await process.coordinator.routers(migration.id)
    assert all(isinstance(each.seen_at, datetime) for each in routers)


async def test_an_event_that_arrives_stays_hidden_and_errors_have_ids(world: World) -> None:
    process = await world.process(init=everything)
    stream = uuid4()
    await process.append(world.tenant, stream)
    with pytest.raises(StreamTenantError) as caught:
        await process.append(world.other, stream, 1)
    assert caught.value.stream_tenant_id == world.tenant
    event = Noted(aggregate_id=uuid4(), tenant_id=world.tenant)
    for _ in range(2):  # the same event again is a success
        result = await process.router.append_events(event.aggregate_id, "Note", [event], 0)
        assert result.new_version == 1
    await insert(world.target, world.other, side="target")
    await world.dual_write()
    for tenant, count in ((world.tenant, 0), (None, 1)):
        found = [each async for each in process.target.read_all(tenant_id=tenant)]
        assert len(found) == count


def test_a_moment_that_cannot_be_read_is_said() -> None:
    now = datetime.now(UTC)
    for given in (now, now.isoformat(), str(now)):
        assert moment_of(given) == now
    with pytest.raises(ValueError, match="codec of this pool for timestamptz gives float"):
        moment_of(1.5)
