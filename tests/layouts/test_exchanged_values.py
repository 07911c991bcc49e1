"""Rows that others refer to exchange a unique value, or one takes that of a row that is gone.

Such rows are written over those of before, one by one and before their children, so that one of
two that exchange a value is always in the other's way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventsource.migration import (
    ConsistencyError,
    CutoverTimeoutError,
    MigrationState,
    background,
)
from eventsource.migration.journaled import passes
from eventsource.migration.layouts.reading import layout_of
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

TABLES = """
create table streams (id bigint primary key, tenant text not null, name text not null unique);
create table events (
    position bigint generated always as identity primary key, tenant text not null,
    stream bigint not null references streams
);
"""

LAYOUT = layout_of(
    "named",
    {
        "tables": [
            {"table": "streams", "key": ["id"], "tenant": "tenant", "written_by": "append"},
            {
                "table": "events", "events": True, "key": ["position"], "tenant": "tenant",
                "numbered": {"position": "own"},
            },
        ]
    },
)  # fmt: skip

CHANGES = {
    "two exchange their names": "begin; update streams set name = name || '-' where id in (1, 2);"
    " update streams set name = case id when 1 then 's2' else 's1' end where id in (1, 2); commit",
    "one goes and another takes its name": "begin; delete from events where stream = 1;"
    " delete from streams where id = 1; insert into streams values (9, 'acme', 's1');"
    " insert into events (tenant, stream) values ('acme', 9); commit",
    "three in a circle": "begin; update streams set name = name || '-' where id in (1, 2, 3);"
    " update streams set name = 's' || (id % 3 + 1) where id in (1, 2, 3); commit",
}


@pytest.fixture
async def world(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async with layout_world(LAYOUT, TABLES, dsns) as opened:
        for tenant, first in (("acme", 1), ("umbrella", 101)):
            await opened.source.execute(
                "insert into streams select n, $1, 's' || n"
                " from generate_series($2::int, $2 + 4) n",
                tenant, first,
            )  # fmt: skip
            await opened.source.execute(
                "insert into events (tenant, stream) select $1, $2 + n % 5"
                " from generate_series(1, 50) n",
                tenant, first,
            )  # fmt: skip
        yield opened


@pytest.mark.parametrize("most", [passes.EXACT_KEYS, 0], ids=["exact", "large"])
@pytest.mark.parametrize("change", CHANGES)
async def test_everything_is_carried_again_and_the_tenant_moves(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch, change: str, most: int
) -> None:
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    monkeypatch.setattr(passes, "EXACT_KEYS", most)
    await world.source.execute(CHANGES[change])
    await until(lambda: _same(world), "what was changed")
    monkeypatch.undo()
    done = await world.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert await _same(world)


async def test_exchanges_one_after_another_are_carried(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes before the first pass that carries everything again for the one before it ends."""
    exchange = (
        "begin; update streams set name = name || '-' where id in (1, 2);"
        " update streams s set name = left(o.name, 2) from streams o"
        " where s.id in (1, 2) and o.id = 3 - s.id; commit"
    )
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    carry, times = passes.JournaledPasses.first, 0

    async def and_exchange(self: passes.JournaledPasses) -> passes.PassOutcome | None:
        nonlocal times
        outcome = await carry(self)
        times += 1
        if times < passes.MOST_EXCHANGES:
            await world.source.execute(exchange)
        return outcome

    monkeypatch.setattr(passes.JournaledPasses, "first", and_exchange)
    await world.source.execute(exchange)
    done = await world.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert times == passes.MOST_EXCHANGES
    assert await _same(world)


async def test_what_another_row_of_the_target_keeps_out_stops_the_cutover(
    world: LayoutWorld,
) -> None:
    """Somebody wrote there, and has the value: nothing that the source does would change that."""
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    await world.target.execute("insert into streams values (500, 'stranger', 'taken')")
    await world.source.execute("update streams set name = 'taken' where id = 1")
    # Where only the pass under the fence meets it, the cutover is given up, and passes go on.
    with pytest.raises((ConsistencyError, CutoverTimeoutError), match="streams"):
        await world.coordinators[0].initiate_cutover(migration.id)
    failed = await world.reaches(migration, MigrationState.FAILED)
    assert "streams" in (failed.error_message or "")
    aborted = await world.coordinators[0].abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    assert await rows(world.target, "streams", "tenant <> 'stranger'") == []


async def _same(world: LayoutWorld) -> bool:
    return all(
        [
            await rows(world.source, table, "tenant = 'acme'")
            == await rows(world.target, table, "tenant = 'acme'")
            for table in ("streams", "events")
        ]
    )
