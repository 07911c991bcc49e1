"""All writers of a tenant come at once when it has moved: one asks whether it lives there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventsource.migration.tables import fences
from tests.support.application import SOURCE, TARGET
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

WRITERS = 10


@asynccontextmanager
async def asked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[list[Any], asyncio.Event]]:
    """What a store is asked about the tenants there, each time, and when it may answer."""
    of_tenants, seen, may = fences.of_tenants, list[Any](), asyncio.Event()

    async def noted(table: Any, tenant_ids: Any) -> Any:
        seen.append(tenant_ids)
        found = await of_tenants(table, tenant_ids)
        await may.wait()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(fences, "of_tenants", noted)
        yield seen, may


async def test_one_of_all_writers_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.migrate()
    process = await world.process()
    async with asked(monkeypatch) as (seen, may):
        writing = [asyncio.create_task(process.append(world.tenant)) for _ in range(WRITERS)]
        await until(lambda: bool_of(seen), "the first to ask")
        # Who gives up takes the answer from nobody.
        writing[0].cancel()
        await asyncio.sleep(0.05)
        may.set()
        await asyncio.gather(*writing[1:])
        await process.append(world.tenant)
        assert seen == [[world.tenant]]
    assert len(await world.ids("target")) == WRITERS


@pytest.mark.parametrize("beside", [True, False])
async def test_what_was_asked_before_a_doubt_is_not_believed_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """By those who ask while the answer is under way, and by those who come later."""
    await world.migrate()
    process = await world.process()
    async with asked(monkeypatch) as (seen, may):
        before = asyncio.create_task(process.append(world.tenant))
        await until(lambda: bool_of(seen), "the first to ask")
        # Its server may be another one from here on.
        process.router._arrivals.doubt(TARGET, ConnectionResetError())
        if beside:
            after = asyncio.create_task(process.append(world.tenant))
            await until(lambda: bool_of(seen[1:]), "the second to ask for itself")
            may.set()
            await asyncio.gather(before, after)
            assert len(seen) == 2
        else:
            may.set()
            await before
            await process.append(world.tenant)
            assert len(seen) >= 2


async def bool_of(seen: list[Any]) -> bool:
    return bool(seen)


async def test_a_tenant_that_has_moved_on_is_followed_by_a_process_that_has_not_heard_of_it(
    world: World,
) -> None:
    """Its store says so, and the route that is known is an old one: once it asked without end."""
    keeper = await world.process(keep_way_back="1h")
    await world.seed(5)
    migration = await world.dual_write(process=keeper)
    await keeper.coordinator.initiate_cutover(migration.id, force=True)
    deaf = await world.process(route_ttl_seconds=600)
    await deaf.append(world.tenant)
    await deaf.router._routes.close()
    deaf.router._routes._ensure_keeper = lambda: None  # type: ignore[method-assign]
    await keeper.coordinator.return_migration(migration.id)
    # What the store has said is too long ago.
    deaf.router._arrivals.doubt(TARGET, ConnectionResetError())
    await asyncio.wait_for(deaf.append(world.tenant), 10)
    assert (await deaf.router.route(world.tenant)).store_id == SOURCE
    assert len(await world.ids("source")) == 7
