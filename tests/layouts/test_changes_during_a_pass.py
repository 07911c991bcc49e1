"""What is written while a pass over many keys is under way, to rows that others refer to.

Such a pass reads its keys first, and then the rows as they are: a row may refer to one that came
later, or be gone together with those that refer to it, and the keys of these are in the next pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.journaled import changes, large_pass, passes
from eventsource.migration.journaled.transfer import Rows, Transfer
from eventsource.migration.layouts.declaration import LayoutTable
from eventsource.migration.layouts.reading import layout_of
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

TABLES = """
create table accounts (id bigint primary key, tenant text not null, name text not null);
create table streams (
    id bigint primary key, tenant text not null, version int not null default 0,
    account bigint not null references accounts, cause bigint references streams
);
create table events (
    position bigint generated always as identity primary key, tenant text not null,
    stream bigint not null references streams
);
"""

LAYOUT = layout_of(
    "three-levels",
    {
        "tables": [
            {"table": "accounts", "key": ["id"], "tenant": "tenant", "written_by": "append"},
            {"table": "streams", "key": ["id"], "tenant": "tenant", "written_by": "append"},
            {
                "table": "events", "events": True, "key": ["position"], "tenant": "tenant",
                "numbered": {"position": "own"},
            },
        ]
    },
)  # fmt: skip

TABLE_NAMES = ("accounts", "streams", "events")

MEANWHILE = {
    "refers to a new one": "insert into accounts values (9, 'acme', 'new');"
    " update streams set account = 9 where id = 2",
    "refers to a new one of its table": "insert into streams values (9, 'acme', 0, 1);"
    " update streams set cause = 9 where id = 2",
    "is gone with those that refer to it": "delete from events where stream = 2;"
    " delete from streams where id = 2",
    "is gone with all levels": "delete from events where stream = 2;"
    " delete from streams where account = 2; delete from accounts where id = 2",
    "is gone, and those that referred to it refer to another": "update events set stream = 1"
    " where stream = 2; delete from streams where id = 2",
}


@pytest.fixture
async def world(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async with layout_world(LAYOUT, TABLES, dsns) as opened:
        await opened.source.execute(
            "insert into accounts select n, 'acme', 'a' || n from generate_series(1, 4) n;"
            " insert into streams select n, 'acme', 0, n from generate_series(1, 4) n;"
            " insert into events (tenant, stream)"
            " select 'acme', 1 + n % 4 from generate_series(1, 40) n"
        )
        yield opened


@pytest.mark.parametrize("meanwhile", MEANWHILE)
async def test_a_row_that_others_refer_to_changes_after_the_keys_were_read(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    read, changed = changes.KeptKeys.of, asyncio.Event()

    async def and_change(*given: Any) -> changes.KeptKeys:
        keys = await read(*given)
        if sum(keys.counts) and not changed.is_set():
            await world.source.execute(MEANWHILE[meanwhile])
            changed.set()
        return keys

    with monkeypatch.context() as many:
        many.setattr(changes.KeptKeys, "of", and_change)
        many.setattr(passes, "EXACT_KEYS", 0)
        many.setattr(large_pass, "PORTION", 3)
        async with asyncio.timeout(30):
            # A pass that had counted before that takes them all at once, and so once more.
            while not changed.is_set():
                await world.source.execute(
                    "begin; update accounts set name = name || '!';"
                    " update streams set version = version + 1; commit"
                )
                await asyncio.sleep(1)
        await until(lambda: _same(world), "what was changed")
    done = await world.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert await _same(world)


async def test_nothing_is_committed_before_a_barrier_that_came_after_its_read(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the source takes back what was committed asynchronously and read meanwhile."""
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    witness = await asyncpg.connect(world.dsns["source"])
    reads: list[Any] = []
    order: list[bool] = []
    read, land = Transfer.read, Transfer.landing

    async def noted(self: Transfer, table: LayoutTable, query: str) -> Rows:
        found = await read(self, table, query)
        reads.append(await witness.fetchval("select clock_timestamp()"))
        return found

    @contextlib.asynccontextmanager
    async def landing(self: Transfer) -> AsyncIterator[None]:
        while reads:
            since = "select max(passed_at) > $1 from eventsource_witnesses"
            order.append(await witness.fetchval(since, reads.pop()))
        async with land(self):
            yield

    with monkeypatch.context() as many:
        many.setattr(Transfer, "read", noted)
        many.setattr(Transfer, "landing", landing)
        many.setattr(passes, "EXACT_KEYS", 0)
        await world.source.execute(
            "begin; update streams set version = 1; delete from events where stream = 2;"
            " delete from streams where id = 2; commit"
        )
        await until(lambda: _same(world), "what was changed")
    await world.coordinators[0].close()
    await witness.close()
    # Portions of three tables, and those of two whose rows may be gone.
    assert order[:3] == [True] * 3
    assert all(order)


@pytest.mark.parametrize(
    "meanwhile",
    [
        "update eventsource_copy_progress set owner = gen_random_uuid()",
        "update eventsource_fences set state = 'aborting' where role = 'target'",
    ],
    ids=["another driver", "an abort"],
)
@pytest.mark.parametrize("most", [passes.EXACT_KEYS, 0], ids=["exact", "large"])
async def test_a_pass_that_is_overtaken_changes_nothing_at_the_target(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch, most: int, meanwhile: str
) -> None:
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    land, look, found, landed = Transfer.landing, changes.read, asyncio.Event(), asyncio.Event()
    before = [await rows(world.target, table, "true") for table in TABLE_NAMES]

    async def noted(*given: Any) -> changes.ChangedKeys | None:
        keys = await look(*given)
        if keys is None or keys.count:
            found.set()
        return keys

    @contextlib.asynccontextmanager
    async def landing(self: Transfer) -> AsyncIterator[None]:
        if found.is_set():
            await world.target.execute(meanwhile)
        try:
            async with land(self):
                yield
        finally:
            if found.is_set():
                landed.set()

    monkeypatch.setattr(passes, "EXACT_KEYS", most)
    monkeypatch.setattr(changes, "read", noted)
    monkeypatch.setattr(Transfer, "landing", landing)
    await world.source.execute(
        "begin; update events set stream = 1 where stream = 2; update streams set version = 1;"
        " commit"
    )
    async with asyncio.timeout(30):
        await landed.wait()
    await world.stop()
    assert [await rows(world.target, table, "true") for table in TABLE_NAMES] == before


async def _same(world: LayoutWorld) -> bool:
    return all(
        [
            await rows(world.source, table, "true") == await rows(world.target, table, "true")
            for table in TABLE_NAMES
        ]
    )
