"""Chunks of later passes that go straight into the table, and those that are left to the stage."""

from __future__ import annotations

import asyncio
import re
import time
from uuid import uuid4

import asyncpg
import pytest

from eventsource.dataplane import DataPlaneError, PassSpec
from tests.support.waiting import until
from tests.support.worlds.rows_by_hand import (
    COLUMNS,
    TARGET_TABLE,
    World,
    backends,
    bare_world,  # noqa: F401 - the fixture "world"
    until_blocked,
    until_gone,
)

#: Rows of a chunk that is worth it.
CHUNK = 250


async def watch_the_table(world: World) -> None:
    """Note how rows come into the table, and by which session: those that stay there."""
    await world.target.execute(
        "create table ways (query text, pid int);"
        " create table steps (number int generated always as identity, position bigint);"
        " create function step() returns trigger language plpgsql as"
        " $$ begin insert into steps (position) values (new.last_position);"
        " return null; end $$;"
        " create trigger step after update on eventsource_copy_progress"
        " for each row execute function step();"
        " create function note() returns trigger language plpgsql as"
        # So that the next chunk finds a connection still at work.
        " $$ begin insert into ways values (current_query(), pg_backend_pid());"
        " perform pg_sleep(0.05); return null; end $$;"
        f' create trigger note after insert on "{TARGET_TABLE}"'
        " for each statement execute function note()"
    )


async def ways(world: World) -> tuple[int, int]:
    """How many chunks went straight into the table, and how many through the stage."""
    queries = [row[0] for row in await world.target.fetch("select query from ways")]
    straight = [query for query in queries if re.match(r"copy \S+ \(", query)]
    staged = [query for query in queries if "eventsource_stage" in query]
    return len(straight), len(staged)


async def sessions(world: World) -> int:
    found: int = await world.target.fetchval("select count(distinct pid) from ways")
    return found


async def later_pass(world: World, chunks: int, *, last: bool = False) -> PassSpec:
    """A pass over so many chunks, in one transaction of the tenant."""
    before = await world.snapshot()
    await world.append(chunks * CHUNK)
    upper = None if last else await world.snapshot()
    return await world.start_pass(PassSpec(1, before, upper, staged=True))


async def test_a_large_transaction_goes_straight_into_the_table(world: World) -> None:
    spec = await later_pass(world, 3)
    await watch_the_table(world)
    session = await world.open(chunk_rows=CHUNK)
    result = await session.run(spec)
    assert (result.rows, result.inserted, result.finished) == (3 * CHUNK, 3 * CHUNK, True)
    assert await ways(world) == (3, 0)
    assert await sessions(world) > 1
    await world.assert_moved()
    row = await world.progress_row()
    assert (row["pass_inserted"], row["rows_copied"]) == (3 * CHUNK, 3 * CHUNK)
    assert (row["pass_digest"], row["last_position"]) == (result.digest, result.last_position)
    assert session.progress().chunks == 3


async def test_its_connections_end_when_they_are_closed(world: World) -> None:
    """Closing waits for the server's side of each, and gives up after five seconds."""
    spec = await later_pass(world, 3)
    await watch_the_table(world)
    session = await world.open(chunk_rows=CHUNK)
    async with asyncio.timeout(4):
        await session.run(spec)
        assert await sessions(world) > 1
        await session.close()


async def test_the_last_pass_opens_no_connection(world: World) -> None:
    """Writers wait for it, with those of the application in their hands."""
    spec = await later_pass(world, 3, last=True)
    await watch_the_table(world)
    session = await world.open(chunk_rows=CHUNK)
    assert (await session.run(spec)).rows == 3 * CHUNK
    assert await ways(world) == (3, 0)
    assert await sessions(world) == 1
    await world.assert_moved()


async def stages(world: World) -> int:
    """How many sessions have a stage."""
    found: int = await world.target.fetchval(
        "select count(*) from pg_class where relname = 'eventsource_stage'"
    )
    return found


async def test_the_stage_is_made_before_the_fence_for_a_tenant_that_writes(world: World) -> None:
    """Under the fence writers would wait for it; without a row it is work for nothing."""
    quiet = await world.snapshot()
    session = await world.open(chunk_rows=CHUNK)
    spec = await world.start_pass(PassSpec(1, quiet, quiet, staged=True))
    assert (await session.run(spec)).rows == 0
    assert await stages(world) == 0
    await world.append(CHUNK)
    spec = await world.start_pass(PassSpec(2, quiet, await world.snapshot(), staged=True))
    await watch_the_table(world)
    assert (await session.run(spec)).rows == CHUNK
    assert (await ways(world), await stages(world)) == ((1, 0), 1)


async def test_the_last_pass_makes_the_stage_where_nothing_was_written_before(
    world: World,
) -> None:
    quiet = await world.snapshot()
    session = await world.open(chunk_rows=CHUNK)
    await world.append(1)
    spec = await world.start_pass(PassSpec(1, quiet, None, staged=True))
    assert (await session.run(spec)).rows == 1
    assert await stages(world) == 1
    await world.assert_moved()


async def test_a_few_rows_go_through_the_stage(world: World) -> None:
    spec = await later_pass(world, 1)
    await watch_the_table(world)
    session = await world.open(chunk_rows=CHUNK // 5)
    assert (await session.run(spec)).rows == CHUNK
    assert await ways(world) == (0, 5)
    await world.assert_moved()


async def test_a_chunk_of_which_the_mirror_has_put_something_there_goes_through_the_stage(
    world: World,
) -> None:
    spec = await later_pass(world, 5)
    await world.mirror(f"version in ({CHUNK + 7}, {CHUNK + 8})")
    await watch_the_table(world)
    session = await world.open(chunk_rows=CHUNK)
    result = await session.run(spec)
    assert (result.rows, result.already_present) == (5 * CHUNK, 2)
    straight, staged = await ways(world)
    steps = [
        row[0] for row in await world.target.fetch("select position from steps order by number")
    ]
    source = [row[0] for row in await world.rows("source")]
    assert steps == source[CHUNK - 1 :: CHUNK]
    # With it those that were being copied meanwhile.
    assert straight + staged == 5
    assert 1 <= staged <= 3
    await world.assert_moved()


async def test_rows_of_the_tenant_between_those_of_a_chunk_do_not_matter(world: World) -> None:
    """An append that was in flight before has lower and higher positions than others."""
    slow = await world.connect_source()
    await slow.execute("begin")
    await world.append(5, connection=slow)
    before = await world.snapshot()
    await world.append(9)
    await world.mirror("version <= 9", newest=True)
    await world.append(CHUNK, connection=slow)
    await slow.execute("commit")
    previous = await world.snapshot()
    xid = before.split(":")[0]
    following = previous.split(":")[1]
    # As of a moment when the nine had been committed, and the slow one not.
    spec = PassSpec(1, f"{xid}:{following}:{xid}", previous, staged=True)
    await watch_the_table(world)
    session = await world.open(chunk_rows=2 * CHUNK)
    result = await session.run(await world.start_pass(spec))
    assert (result.rows, result.already_present) == (CHUNK + 5, 0)
    assert await ways(world) == (1, 0)
    assert await world.rows("target") == await world.rows("source")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("actor_id = 'other'", "different"),
        # Not at its position, so that only the unique key says that it is there.
        ("global_position = 500000", "missing"),
    ],
)
async def test_what_differs_in_a_large_transaction_is_named(
    world: World, change: str, kind: str
) -> None:
    spec = await later_pass(world, 3)
    await world.mirror(f"version = {CHUNK + 7}", change=change)
    session = await world.open(chunk_rows=CHUNK)
    with pytest.raises(DataPlaneError) as caught:
        await session.run(spec)
    assert (caught.value.kind, caught.value.detail["total"]) == ("inconsistent", 1)
    (difference,) = caught.value.detail["differences"]
    source = await world.rows("source")
    assert (difference["kind"], difference["position"]) == (kind, source[CHUNK + 6][0])
    await until_gone(world)
    assert (await world.progress_row())["pass_rows"] == CHUNK
    assert len(await world.rows("target")) == CHUNK + 1


async def test_a_row_that_the_target_changes_on_its_way_in_is_not_committed(world: World) -> None:
    spec = await later_pass(world, 2)
    await world.target.execute(
        "create function spoil() returns trigger language plpgsql as"
        " $$ begin new.actor_id := 'somebody else'; return new; end $$;"
        f' create trigger spoil before insert on "{TARGET_TABLE}" for each row'
        f" when (new.version = {CHUNK + 17}) execute function spoil()"
    )
    session = await world.open(chunk_rows=CHUNK)
    with pytest.raises(DataPlaneError) as caught:
        await session.run(spec)
    (difference,) = caught.value.detail["differences"]
    assert (difference["kind"], difference["field"]) == ("different", "actor_id")
    await until_gone(world)
    assert len(await world.rows("target")) == CHUNK


async def write_one(connection: asyncpg.Connection, world: World, version: int) -> None:
    """A row of the tenant as the mirror writes it."""
    names = ", ".join(COLUMNS)
    row = await world.source.fetchrow(
        f"select {names} from events where tenant_id = $1 and version = $2", world.tenant, version
    )
    assert row is not None
    places = ", ".join(f"${n}" for n in range(1, len(COLUMNS) + 1))
    await connection.execute(
        f'insert into "{TARGET_TABLE}" ({names}) values ({places}) on conflict do nothing',
        row["global_position"] + world.config.offset,
        *tuple(row)[1:],
    )


async def test_a_mirror_that_writes_meanwhile_is_waited_for(world: World) -> None:
    """Also where it then waits for the chunk after the one that waits for it."""
    spec = await later_pass(world, 2)
    mirror = await world.connect_target()
    await mirror.execute("begin")
    await write_one(mirror, world, 5)
    session = await world.open(chunk_rows=CHUNK)
    running = asyncio.create_task(session.run(spec))
    await until_blocked(world)
    began = time.monotonic()

    async def second_chunk_is_written_or_given_up() -> bool:
        ready = await backends(world, "state = 'idle in transaction' and query like 'copy (%'")
        return ready > 0 or time.monotonic() - began > 2

    await until(second_chunk_is_written_or_given_up, "the second chunk")
    await asyncio.wait_for(write_one(mirror, world, CHUNK + 5), 10)
    await mirror.execute("commit")
    result = await asyncio.wait_for(running, 10)
    assert (result.rows, result.finished) == (2 * CHUNK, True)
    assert result.already_present in (1, 2)
    await world.assert_moved()


async def test_what_an_earlier_attempt_has_mapped_is_mapped_once(world: World) -> None:
    spec = await later_pass(world, 2)
    session = await world.open(chunk_rows=CHUNK)
    source = await world.rows("source")
    await world.control.executemany(
        "insert into migration_position_mappings (migration_id, source_position, target_position,"
        " event_id) values ($1, $2, $3, $4)",
        [
            (world.config.migration_id, row[0], row[0] + world.config.offset, row[1])
            for row in source[CHUNK - 5 : CHUNK + 5]
        ],
    )
    await session.run(spec)
    await world.assert_moved()


@pytest.mark.parametrize("side", ["target", "control"])
async def test_a_driver_that_lost_the_migration_commits_no_large_chunk(
    world: World, side: str
) -> None:
    spec = await later_pass(world, 2)
    if side == "target":
        # Another driver claims the row while the chunk is being copied.
        await world.target.execute(
            "create function claim() returns trigger language plpgsql as $$ begin"
            " update eventsource_copy_progress set owner = gen_random_uuid();"
            " return null; end $$;"
            f' create trigger claim after insert on "{TARGET_TABLE}"'
            " for each statement execute function claim()"
        )
    else:
        await world.control.execute("update tenant_migrations set driver_owner = $1", uuid4())
    session = await world.open(chunk_rows=CHUNK)
    with pytest.raises(DataPlaneError) as caught:
        await session.run(spec)
    assert (caught.value.kind, caught.value.detail["side"]) == ("ownership_lost", side)
    await until_gone(world)
    assert await world.rows("target") == []
