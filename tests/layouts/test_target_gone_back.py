"""A target that is put back to a moment of the move gets what the journal has no more."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import Migration
from eventsource.migration.journaled import exact_pass
from tests.layouts.test_journal import TABLES, equal, followed, in_dual_write
from tests.support import marten
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld

KEPT = (*TABLES, "eventsource_copy_progress")


async def keep(world: LayoutWorld) -> None:
    connection = await asyncpg.connect(world.dsns["target"])
    for name in KEPT:
        await connection.execute(f"create table kept_{name} as table {name}")
    await connection.close()


async def put_back(world: LayoutWorld, migration: Migration) -> None:
    """As it was when it was kept; the guard lets its owner do that in the migration's name."""
    await world.target.execute(f"set eventsource.migration = '{migration.id}'")
    for name in (*reversed(TABLES), "eventsource_copy_progress"):
        await world.target.execute(f"delete from {name}")
    for name in KEPT:
        await world.target.execute(
            f"insert into {name} overriding system value select * from kept_{name}"
        )


@pytest.mark.parametrize("moment", ["read", "write"], ids=["before a pass", "within a pass"])
async def test_what_was_carried_since_is_carried_again(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    migration = await in_dual_write(shop)
    original, kept = getattr(exact_pass.ExactPass, moment), False

    async def and_keep(*given: object) -> object:
        nonlocal kept
        if not kept:
            await keep(shop)
            kept = True
        return await original(*given)

    async def is_kept() -> bool:
        return kept

    await shop.coordinators[0].pause_migration(migration.id)
    monkeypatch.setattr(exact_pass.ExactPass, moment, and_keep)
    await marten.append(shop.source, "acme", uuid4(), 3)
    await shop.source.execute("update mt_events set data = '{\"a\": 1}' where version = 2")
    await shop.coordinators[0].resume_migration(migration.id)
    await until(is_kept, "a pass")
    await followed(shop)
    await shop.coordinators[0].pause_migration(migration.id)
    await put_back(shop, migration)
    await shop.coordinators[0].resume_migration(migration.id)
    await shop.coordinators[0].initiate_cutover(migration.id, force=True)
    await equal(shop)
