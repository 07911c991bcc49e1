"""Somebody removes the target's fence row by hand: an abort leaves nothing there all the same."""

from __future__ import annotations

import pytest

from eventsource.migration import MigrationState, StoreGoneBackError
from tests.support.worlds.three_databases import TARGET_TABLE, World, insert, table

REMOVED = {
    "the row": "delete from eventsource_fences",
    "row and triggers": "delete from eventsource_fences; alter table {t} disable trigger user",
}


@pytest.mark.parametrize("what", REMOVED)
async def test_an_abort_leaves_nothing(world: World, what: str) -> None:
    await world.seed(20)
    await world.seed(5, world.other, side="target")
    migration = await world.dual_write()
    await world.target.execute(REMOVED[what].format(t=table("target")))
    here = await world.rows("source")
    aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    assert await world.rows("source") == here
    assert await world.rows("target") == []
    assert len(await world.rows("target", world.other)) == 5
    left = await world.target.fetch(
        "select tgname from pg_trigger where tgname like 'zzz_eventsource_guard_%'"
        " and tgenabled <> 'D' and tgrelid = $1::regclass",
        f'"{TARGET_TABLE}"',
    )
    assert left == []
    await insert(world.target, world.tenant, side="target")
    await insert(world.source, world.tenant)


async def test_a_source_that_says_nothing_any_more_keeps_the_rows(world: World) -> None:
    """Both fences are gone: nobody knows where the tenant lives."""
    await world.seed(20)
    migration = await world.dual_write()
    for side in (world.source, world.target):
        await side.execute("delete from eventsource_fences")
    with pytest.raises(StoreGoneBackError):
        await world.coordinator.abort_migration(migration.id)
    assert len(await world.rows("target")) == 20
