"""Tables that somebody renames, drops or puts others in the place of while a tenant moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import Migration, MigrationState, background
from eventsource.migration.layouts.reading import layout_of
from tests.support.fingerprint import fingerprint
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

LAYOUT = layout_of(
    "named",
    {
        "tables": [
            {
                "table": "events", "events": True, "key": ["position"], "tenant": "tenant",
                "numbered": {"position": "own"},
            },
            {
                "table": "notes", "key": ["id"], "written_by": "append",
                "numbered": {"position": "like:events"},
                "tenant": {
                    "through": "events", "columns": ["position"], "referenced": ["position"],
                },
            },
        ]
    },
)  # fmt: skip

RENAME, BACK = "alter table notes rename to remarks", "alter table remarks rename to notes"
OTHER_COLUMN = "alter table notes rename column position to place"
SWAP = f"{RENAME}; create table notes (like remarks including all); insert into notes table remarks"


@pytest.fixture
async def world(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """Events with a note each."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "create table events (position bigint generated always as identity primary key,"
            " tenant text not null);"
            "create table notes (id uuid primary key, position bigint not null references events)"
        )

    async with layout_world(LAYOUT, make, dsns) as made:
        await append(made.source)
        yield made


async def append(connection: asyncpg.Connection) -> None:
    for _ in range(5):
        await connection.execute(
            "with made as (insert into events (tenant) values ('acme') returning position)"
            " insert into notes select $1, position from made",
            uuid4(),
        )  # fmt: skip


async def _under_way(world: LayoutWorld) -> Migration:
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    return migration


async def _says(world: LayoutWorld, migration: Migration, *texts: str) -> None:
    async def does() -> bool:
        found = await world.coordinators[0].get_migration(migration.id)
        assert not found.state.is_final, found.error_message
        return all(text in (found.error_message or "") for text in texts)

    await until(does, f"the migration to say {texts}")


async def _has_nothing_of_it(world: LayoutWorld) -> None:
    for connection in (world.source, world.target):
        left = await connection.fetch(
            "select tgname from pg_trigger where tgname like 'zzz%' union all select proname"
            " from pg_proc where proname ~ '^eventsource_(journal|cascade|arrival)_'"
            " union all select state from eventsource_fences"
            " union all select key::text from eventsource_changes"
        )
        assert [row[0] for row in left] == []
    assert await world.target.fetchval("select count(*) from events") == 0


async def _arrives(world: LayoutWorld, migration: Migration) -> None:
    done = await world.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    for table in ("events", "notes"):
        here = await rows(world.source, table, "true")
        assert await rows(world.target, table, "true") == here


@pytest.mark.parametrize("sides", [("source",), ("target",), ("source", "target")], ids="+".join)
async def test_a_table_without_its_name_is_waited_for_and_goes_on_under_it(
    world: LayoutWorld, sides: tuple[str, ...]
) -> None:
    migration = await _under_way(world)
    for side in sides:
        await getattr(world, side).execute(RENAME)
    if "source" not in sides:
        await append(world.source)
    await _says(
        world, migration, f'the {sides[0]} has no table "public"."notes"', "give it its name back"
    )
    for side in sides:
        await getattr(world, side).execute(BACK)
    await append(world.source)
    await _arrives(world, migration)


@pytest.mark.parametrize("change", [RENAME, SWAP, "drop table notes"], ids=["away", "swap", "gone"])
@pytest.mark.parametrize("sides", [("source",), ("target",), ("source", "target")], ids="+".join)
async def test_an_abort_finds_a_table_by_its_guard_and_misses_none_that_is_gone(
    world: LayoutWorld, sides: tuple[str, ...], change: str
) -> None:
    migration = await _under_way(world)
    for side in sides:
        await getattr(world, side).execute(change)
    async with asyncio.timeout(20):
        await world.coordinators[0].abort_migration(migration.id)
    await _has_nothing_of_it(world)
    for name in ("notes", "remarks"):
        if await world.target.fetchval("select to_regclass($1) is not null", name):
            assert await world.target.fetchval(f"select count(*) from {name}") == 0
    await world.source.execute("insert into events (tenant) values ('acme')")


async def test_a_table_in_the_place_of_another_is_guarded_before_it_is_carried(
    world: LayoutWorld,
) -> None:
    migration = await _under_way(world)
    await world.source.execute(SWAP)
    await asyncio.sleep(0.5)
    await append(world.source)
    await _arrives(world, migration)


async def test_a_guard_that_was_switched_off_is_made_again_before_anything_is_carried(
    world: LayoutWorld,
) -> None:
    migration = await _under_way(world)
    await world.source.execute("alter table notes disable trigger user")
    await asyncio.sleep(0.5)
    await append(world.source)
    await _arrives(world, migration)


async def test_a_column_that_says_whose_the_rows_are_is_named_and_waited_for(
    world: LayoutWorld,
) -> None:
    before = [await fingerprint(each, journal=False) for each in (world.source, world.target)]
    migration = await _under_way(world)
    for connection in (world.source, world.target):
        await connection.execute(OTHER_COLUMN)
    await _says(world, migration, '"public"."notes" has no column position, which the layout names')
    aborting = asyncio.create_task(world.coordinators[0].abort_migration(migration.id))
    await _says(world, migration, '"public"."notes"."position", which says whose they are')
    # Its writers were let go first.
    await world.source.execute(
        "insert into notes select $1, min(position) from events", dropped := uuid4()
    )
    await world.source.execute("delete from notes where id = $1", dropped)
    for connection in (world.source, world.target):
        await connection.execute("alter table notes rename column place to position")
    await aborting
    assert before == [
        await fingerprint(each, journal=False) for each in (world.source, world.target)
    ]


async def test_a_sequence_that_was_set_back_at_the_target_gives_no_carried_number(
    world: LayoutWorld,
) -> None:
    migration = await _under_way(world)
    await world.target.execute("alter sequence events_position_seq restart with 1")
    await world.coordinators[0].initiate_cutover(migration.id)
    carried = await world.target.fetchval("select max(position) from events")
    await append(world.target)
    assert await world.target.fetchval("select min(position) from events where position > $1",
                                       carried) > carried  # fmt: skip
    assert await world.target.fetchval("select count(*) from events") == 10


async def test_an_abort_waits_for_rows_of_another_table_that_refer_to_carried_ones(
    world: LayoutWorld,
) -> None:
    migration = await _under_way(world)
    await world.target.execute(
        "create table invoices (event bigint references events);"
        " insert into invoices select position from events"
    )
    aborting = asyncio.create_task(world.coordinators[0].abort_migration(migration.id))
    await _says(world, migration, 'is still referenced from table "invoices". Delete these')
    await world.target.execute("delete from invoices")
    await aborting
    await _has_nothing_of_it(world)


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside-another"])
async def test_an_abort_takes_off_a_guard_whose_fence_was_removed_by_hand(
    world: LayoutWorld, others: int
) -> None:
    await world.source.execute("insert into events (tenant) values ('umbrella')")
    migration = await _under_way(world)
    others_keys = "select count(*) from eventsource_changes where fence_id = 2"
    if others:
        beside = await world.start("umbrella")
        await world.reaches(beside, MigrationState.DUAL_WRITE)
        await world.coordinators[0].pause_migration(beside.id)
        await world.reaches(beside, MigrationState.PAUSED)
        await world.source.execute("insert into events (tenant) values ('umbrella')")
        assert await world.source.fetchval(others_keys) > 0
    written = await world.source.fetchval(others_keys)
    await world.source.execute("delete from eventsource_fences where tenant_id = 'acme'")
    with pytest.raises(asyncpg.PostgresError, match="fence 1 is missing"):
        await append(world.source)
    async with asyncio.timeout(20):
        await world.coordinators[0].abort_migration(migration.id)
    assert await world.source.fetchval(others_keys) == written
    await append(world.source)
    await world.source.execute("insert into events (tenant) values ('umbrella')")
    guards = await world.source.fetchval("select count(*) from pg_trigger where tgname like 'zzz%'")
    assert (guards > 0) == bool(others)
    kept = "select count(*) from eventsource_changes where fence_id in (1, -1)"
    assert await world.source.fetchval(kept) == 0
