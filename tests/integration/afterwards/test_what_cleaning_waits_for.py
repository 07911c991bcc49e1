"""When old rows do not go yet, and how fast they go."""

from __future__ import annotations

import time

import pytest

from eventsource.migration import MigrationError
from eventsource.migration.steps import cleanup
from tests.support.application import Process
from tests.support.worlds.three_databases import World, table


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("preparing", "needs the old rows"),
        ("standby", "needs the old rows"),
        ("closing", "nothing has taken it down yet"),
        ("returning", "about to return"),
    ],
)
async def test_what_a_way_back_needs_stays_however_it_is_asked_for(
    world: World, keeper: Process, state: str, said: str
) -> None:
    await world.seed(5)
    migration = await world.dual_write(process=keeper)
    await keeper.coordinator.initiate_cutover(migration.id)
    await world.control.execute("update tenant_ways_back set state = $1", state)
    with pytest.raises(MigrationError, match=said):
        await world.coordinator.cleanup(migration.id, now=True, backed_up=True)
    assert len(await world.ids("source")) == 5


async def test_nothing_goes_while_the_home_is_not_open_for_the_tenant(world: World) -> None:
    """As after a restore of it: then the old rows may be the only ones."""
    await world.seed(5)
    migration = await world.migrate()
    await world.target.execute("delete from eventsource_fences")
    with pytest.raises(MigrationError, match=r"is not open for it \(no fence\)"):
        await world.coordinator.cleanup(migration.id, now=True, backed_up=True)
    assert len(await world.ids("source")) == 5


async def test_rows_go_no_faster_than_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "PORTION", 5)
    await world.seed(15)
    migration = await world.migrate()
    began = time.monotonic()
    found = await world.coordinator.cleanup(
        migration.id, now=True, backed_up=True, max_rows_per_second=10
    )
    assert found.deleted == 15
    assert time.monotonic() - began >= 1.5


async def test_rows_are_equal_whatever_the_defaults_of_the_databases_are(world: World) -> None:
    for side, pool in (("source", world.source), ("target", world.target)):
        await pool.execute(
            f"alter table {table(side)} add column took interval default '1 day 02:03:04',"
            " add column share float8 default 0.1::float8 + 0.2::float8,"
            " add column raw bytea default '\\x01ff'"
        )
    await world.seed(5)
    database = await world.target.fetchval("select quote_ident(current_database())")
    changed = {
        "timezone": "Asia/Tokyo", "datestyle": "German", "intervalstyle": "iso_8601",
        "extra_float_digits": "-3", "bytea_output": "escape",
    }  # fmt: skip
    for name, value in changed.items():
        await world.target.execute(f"alter database {database} set {name} = '{value}'")
    try:
        process = await world.process()
        migration = await world.dual_write(process=process)
        await process.coordinator.initiate_cutover(migration.id)
        found = await process.coordinator.cleanup(migration.id, now=True, backed_up=True)
    finally:
        await world.target.execute(f"alter database {database} reset all")
    assert found.deleted == 5
