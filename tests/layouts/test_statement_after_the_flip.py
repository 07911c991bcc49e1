"""The statement that a layout has for its target once a tenant lives there, and what stops it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.errors import InvalidStateTransitionError
from eventsource.migration.layouts.presets import presets
from tests.support import marten
from tests.support.worlds.layouts import LayoutWorld, layout_world

MARK = "insert into marks values ({tenant}, {last_position})"
TENANT = "o'brien {last_position}"


@pytest.fixture
async def shop(
    request: pytest.FixtureRequest, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """Marten's tables with the statement of a test, and a table that it may write to."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    layout = replace(presets()["marten"], after_flip=request.param)
    async with layout_world(layout, marten.make, dsns) as world:
        await world.target.execute("create table marks (tenant text primary key, at bigint)")
        await marten.append(world.source, TENANT, uuid4(), 3)
        yield world


async def marks(shop: LayoutWorld) -> list[tuple[str, int]]:
    return [tuple(row) for row in await shop.target.fetch("select * from marks")]


@pytest.mark.parametrize(
    ("shop", "why"),
    [
        ("insert into nowhere values (1)", 'relation "nowhere" does not exist'),
        ("insert into marks (later) values ({last_position})", '"later"'),
        ("insrt into marks values (1);", "syntax error"),
        ("select no_such_function({tenant})", "no_such_function"),
    ],
    indirect=["shop"],
)
async def test_one_that_the_target_does_not_understand_refuses_the_start(
    shop: LayoutWorld, why: str
) -> None:
    await shop.refuses(TENANT, "the target does not take the layout's after_flip")
    await shop.refuses(TENANT, why)


@pytest.mark.parametrize("shop", [MARK], indirect=True)
async def test_what_it_needs_and_is_gone_by_then_refuses_the_cutover(shop: LayoutWorld) -> None:
    migration = await shop.start(TENANT)
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    [coordinator] = shop.coordinators
    await shop.target.execute("alter table marks rename to elsewhere")
    with pytest.raises(PreflightError, match=r'after_flip.*"marks" does not exist'):
        await coordinator.initiate_cutover(migration.id)
    await marten.append(shop.source, TENANT, uuid4())
    await shop.target.execute("alter table elsewhere rename to marks")
    assert (await coordinator.initiate_cutover(migration.id)).state is MigrationState.MIGRATED
    assert len(await marks(shop)) == 1


@pytest.mark.parametrize("shop", [MARK], indirect=True)
async def test_one_that_fails_is_named_and_ends_the_move_once_it_is_mended(
    shop: LayoutWorld,
) -> None:
    await shop.target.execute("insert into marks values ($1, 0)", TENANT)
    migration = await shop.start(TENANT)
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    [coordinator] = shop.coordinators
    cutover = asyncio.create_task(coordinator.initiate_cutover(migration.id))
    said = ""
    async with asyncio.timeout(20):
        while "after_flip" not in said:
            said = (await coordinator.get_migration(migration.id)).error_message or ""
            await asyncio.sleep(0.05)
    assert "lives in 'dedicated'" in said
    assert "duplicate key" in said
    assert await shop.target.fetchval("select state from eventsource_fences") == "open"
    # It is too late for an abort, and whoever asks for one is told.
    async with asyncio.timeout(20):
        with pytest.raises(InvalidStateTransitionError, match="cannot be aborted"):
            await coordinator.abort_migration(migration.id)
    await shop.target.execute("delete from marks")
    async with asyncio.timeout(20):
        assert (await cutover).state is MigrationState.MIGRATED
    head = await shop.source.fetchval("select last_value from mt_events_sequence")
    assert await marks(shop) == [(TENANT, head)]


@pytest.mark.parametrize("shop", [f"begin; {MARK}", f"{MARK}; select 1"], indirect=True)
async def test_a_transaction_that_it_leaves_open_is_kept(shop: LayoutWorld) -> None:
    assert (await shop.move(TENANT)).state is MigrationState.MIGRATED
    assert len(await marks(shop)) == 1
    left = await shop.target.fetchval(
        "select count(*) from pg_trigger where tgname like 'zzz_eventsource%'"
    )
    assert left == 0
