"""Lock timeouts: of a role for any lock, and of the guard for a tenant that is being moved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import TenantTransaction, WritePausedError
from eventsource.migration.tables import fences
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.integration.routing.test_transactions import OUTBOX, AppendsNothing, Work, WritesBySQL
from tests.support.application import Noted, Process
from tests.support.one_fence import BUDGET, guarded
from tests.support.worlds.three_databases import SOURCE_TABLE, World, insert


@pytest.fixture
async def impatient(world: World) -> AsyncIterator[Process]:
    """A process whose role waits for a lock no longer than a moment."""
    settings = {"lock_timeout": "50ms"}
    async with asyncpg.create_pool(
        world.dsns["source"], min_size=0, max_size=4, server_settings=settings
    ) as pool:
        yield await world.process(source_store=lambda _: PostgreSQLEventStore(pool, SOURCE_TABLE))


@pytest.mark.parametrize("migrates", [False, True])
async def test_a_role_that_waits_for_no_lock_is_not_told_of_a_cutover(
    world: World, impatient: Process, migrates: bool
) -> None:
    """Another writer of the same stream holds it up, whether a move is under way or not."""
    if migrates:
        await world.seed(20)
        await world.dual_write()
    stream = uuid4()

    async def block(made: TenantTransaction) -> None:
        event = Noted(aggregate_id=stream, tenant_id=world.tenant)
        await made.append_events(stream, "Note", [event], 0)

    other = await world.connect()
    async with other.transaction():
        await insert(other, world.tenant, stream=stream)
        for append in (
            impatient.append(world.tenant, stream),
            impatient.router.transaction(world.tenant, block),
        ):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await append


@pytest.mark.parametrize("kind", [Work, WritesBySQL, AppendsNothing])
async def test_a_transaction_that_waited_too_long_is_told_that_writes_are_paused(
    world: World, impatient: Process, monkeypatch: pytest.MonkeyPatch, kind: type[Work]
) -> None:
    monkeypatch.setattr(fences, "GUARD_PATIENCE_SECONDS", 0.2 - BUDGET)
    await world.source.execute(OUTBOX)
    it = await guarded(world)
    async with it.closed_to_writers():
        with pytest.raises(WritePausedError) as caught:
            await impatient.router.transaction(world.tenant, kind(world.tenant))
    assert caught.value.tenant_id == world.tenant
    assert 0.15 < caught.value.timeout_seconds < 1
    assert await world.ids("source") == []
