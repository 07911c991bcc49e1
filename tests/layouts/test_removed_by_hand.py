"""Rows and triggers of ours that somebody removes by hand while a tenant moves."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import Migration, MigrationError, MigrationState
from tests.support import marten
from tests.support.worlds.layouts import LayoutWorld, rows

#: What goes: where, and the statement.
REMOVED = {
    "the target's fence": ("target", "delete from eventsource_fences"),
    "the target's fence and guards": (
        "target", "delete from eventsource_fences; drop function eventsource_arrival_1_0 cascade;"
        " drop function eventsource_arrival_1_1 cascade",
    ),
    "the target's progress": ("target", "delete from eventsource_copy_progress"),
    "the target's guard": ("target", "drop function eventsource_arrival_1_0 cascade"),
    "the source's fence": ("source", "delete from eventsource_fences"),
    "the source's journal": ("source", "delete from eventsource_changes"),
    "the source's barriers": ("source", "delete from eventsource_witnesses"),
    "the source's guard": ("source", "drop trigger zzz_eventsource_guard_insert on mt_events"),
    "the source's guard is off": ("source", "alter table mt_events disable trigger all"),
    "the route": ("control", "delete from tenant_routing"),
}  # fmt: skip


async def under_way(shop: LayoutWorld) -> Migration:
    for tenant in ("acme", "umbrella"):
        await marten.append(shop.source, tenant, uuid4(), 4)
        await marten.append(shop.target, "stranger", uuid4(), 2)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    return migration


async def remove(shop: LayoutWorld, what: str) -> None:
    side, statement = REMOVED[what]
    await getattr(shop, side).execute(statement)
    # Its own guard may refuse that by now.
    with contextlib.suppress(asyncpg.PostgresError):
        await marten.append(shop.source, "acme", uuid4(), 3)


@pytest.mark.parametrize("what", REMOVED)
async def test_an_abort_leaves_nothing_all_the_same(shop: LayoutWorld, what: str) -> None:
    """Without the target's fence it said that all was well, and left rows and triggers there."""
    migration = await under_way(shop)
    await remove(shop, what)
    here = await rows(shop.source, "mt_events", "true")
    async with asyncio.timeout(30):
        await shop.coordinators[0].abort_migration(migration.id)
    assert await rows(shop.source, "mt_events", "true") == here
    assert await rows(shop.target, "mt_events", "tenant_id = 'acme'") == []
    assert await rows(shop.target, "mt_streams", "tenant_id = 'acme'") == []
    for side in (shop.source, shop.target):
        left = await side.fetch(
            "select tgname::text from pg_trigger where tgname like 'zzz%' union all"
            " select proname::text from pg_proc where proname ~ '^eventsource_(arrival|journal)_'"
        )
        assert left == []
        assert await side.fetchval("select count(*) from eventsource_fences") == 0
    assert await shop.target.fetchval("select count(*) from eventsource_copy_progress") == 0
    await marten.append(shop.source, "acme", uuid4(), 1)
    await marten.append(shop.target, "acme", uuid4(), 1)


@pytest.mark.parametrize("what", REMOVED)
async def test_a_cutover_loses_nothing(shop: LayoutWorld, what: str) -> None:
    migration = await under_way(shop)
    await remove(shop, what)
    coordinator = shop.coordinators[0]
    async with asyncio.timeout(30):
        try:
            done = await coordinator.initiate_cutover(migration.id)
        except MigrationError:
            # It says why at once, and what is known of it at the next time.
            try:
                done = await coordinator.initiate_cutover(migration.id)
            except MigrationError:
                done = await coordinator.abort_migration(migration.id)
    if done.state is MigrationState.MIGRATED:
        for table in ("mt_streams", "mt_events"):
            assert len(await rows(shop.target, table, "tenant_id = 'acme'")) == len(
                await rows(shop.source, table, "tenant_id = 'acme'")
            )
        with pytest.raises(asyncpg.PostgresError) as refused:
            await marten.append(shop.source, "acme", uuid4(), 1)
        assert refused.value.sqlstate == "EVF01"
    else:
        assert await rows(shop.target, "mt_events", "tenant_id = 'acme'") == []
