"""Passes of the data plane that are stopped, cancelled, left by their driver or taken over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from eventsource.dataplane import DataPlaneError, PassSpec
from tests.support.waiting import until
from tests.support.worlds.rows_by_hand import (
    TARGET_TABLE,
    Gate,
    World,
    bare_world,  # noqa: F401 - the fixture "world"
    copied_ranges,
    until_blocked,
    until_gone,
)


async def test_a_stopped_pass_is_resumed_where_it_stood(world: World) -> None:
    await world.append(1000)
    spec = await world.bulk()
    session = await world.open(chunk_rows=10, max_events_per_second=400.0)
    running = asyncio.create_task(session.run(spec))

    async def some_rows() -> bool:
        return session.progress().rows >= 50

    await until(some_rows, "some rows")
    session.request_stop()
    result = await running
    assert not result.finished
    assert 50 <= result.rows < 1000
    assert (await world.progress_row())["pass_rows"] == result.rows
    await session.close()

    await world.append(5)  # not in the snapshot
    again = await world.open()
    result = await again.run(spec)
    assert result.finished
    assert result.rows == 1000
    row = await world.progress_row()
    assert row["proven_position"] == row["last_position"]
    assert len(await world.mappings()) == 1000


@pytest.mark.parametrize("staged", [False, True], ids=["first", "later"])
async def test_a_chunk_that_was_read_when_the_stop_came_is_not_lost(
    world: World, staged: bool
) -> None:
    """The reader is at the end of the pass before its last chunk is written."""
    before = await world.snapshot()
    await world.append(15)
    if staged:
        spec = await world.start_pass(PassSpec(1, before, None, staged=True))
    else:
        spec = await world.bulk()
    tenth = (await world.rows("source"))[9][0]
    session = await world.open(chunk_rows=10, jobs=1)
    gate = await Gate.close(world)
    running = asyncio.create_task(session.run(spec))

    async def all_is_read() -> bool:
        return bool(
            await world.source.fetchval(
                "select count(*) from pg_stat_activity where application_name ="
                " 'eventsource-migrate' and datname = current_database() and state = 'idle'"
                " and query like 'copy (%' || $1::bigint || '%'",
                tenth,
            )
        )

    await until(all_is_read, "the end of the reading")
    await until_blocked(world)
    await asyncio.sleep(0.1)  # until the reader has handed the chunk over, too
    session.request_stop()
    await gate.open()
    result = await running
    assert (result.rows, result.finished) == (10, False)
    await session.close()

    again = await world.open()
    result = await again.run(spec)
    assert (result.rows, result.finished) == (15, True)
    await world.assert_moved()


async def test_a_finished_pass_run_again_does_nothing(world: World) -> None:
    await world.append(30)
    spec = await world.bulk()
    session = await world.open()
    first = await session.run(spec)
    second = await session.run(spec)
    assert (second.rows, second.digest, second.finished) == (first.rows, first.digest, True)
    await world.assert_moved()


async def test_what_an_earlier_driver_left_unproven_is_proven_first(world: World) -> None:
    await world.append(40)
    spec = await world.bulk()
    session = await world.open(chunk_rows=10)
    await session.run(spec)
    await session.close()
    [_, (second, _, _), *_] = await copied_ranges(world)
    await world.target.execute("update eventsource_copy_progress set proven_position = $1", second)
    again = await world.open(chunk_rows=10)
    assert (await again.run(spec)).rows == 40
    assert (await world.progress_row())["proven_position"] > second
    await again.close()

    await world.target.execute("update eventsource_copy_progress set proven_position = $1", second)
    table = world.config.target.table
    await world.target.execute(f"""update "{table}" set payload = '{{}}' where version = 33""")
    third = await world.open(chunk_rows=10)
    with pytest.raises(DataPlaneError, match="an earlier driver wrote") as caught:
        await third.run(spec)
    assert caught.value.kind == "inconsistent"


async def test_cancelling_in_the_middle_of_a_copy_leaves_no_row(world: World) -> None:
    await world.append(100)
    spec = await world.bulk()
    gate = await Gate.close(world)
    session = await world.open()
    running = asyncio.create_task(session.run(spec))
    await until_blocked(world)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gate.open()
    await session.close()
    await until_gone(world)
    assert await world.rows("target") == []
    assert (await world.progress_row())["pass_rows"] == 0
    with pytest.raises(DataPlaneError, match="closed"):
        await session.run(spec)

    again = await world.open()
    await again.run(spec)
    await world.assert_moved()


async def test_mapping_rows_without_events_are_removed_at_the_next_start(world: World) -> None:
    """The mapping commits first, so a crash between the two leaves such rows."""
    await world.append(10)
    await world.control.executemany(
        "insert into migration_position_mappings (migration_id, source_position, target_position,"
        " event_id) values ($1, $2, $3, $4)",
        [(world.config.migration_id, n, n, uuid4()) for n in range(1, 10)],
    )
    session = await world.open()
    await session.run(await world.bulk())
    await world.assert_moved()


@pytest.mark.parametrize("side", ["target", "control"])
@pytest.mark.parametrize("staged", [False, True])
async def test_a_driver_that_lost_the_migration_commits_nothing(
    world: World, side: str, staged: bool
) -> None:
    await world.append(50)
    spec = await world.start_pass(PassSpec(0, None, await world.snapshot(), staged))
    session = await world.open()
    if side == "target":
        gate = await Gate.close(world)
        running = asyncio.create_task(session.run(spec))
        await until_blocked(world)
        other = await world.connect_target()
        await other.execute("update eventsource_copy_progress set owner = gen_random_uuid()")
        await gate.open()
    else:
        await world.control.execute("update tenant_migrations set driver_owner = null")
        running = asyncio.create_task(session.run(spec))
    with pytest.raises(DataPlaneError) as caught:
        await running
    assert (caught.value.kind, caught.value.detail["side"]) == ("ownership_lost", side)
    await until_gone(world)
    assert await world.rows("target") == []


async def test_two_drivers_with_the_same_token_do_not_both_commit(world: World) -> None:
    """The cursor is compared as well, for a driver that was frozen and has come back."""
    await world.append(50)
    spec = await world.start_pass(PassSpec(0, None, await world.snapshot(), staged=True))
    gate = await Gate.close(world)
    frozen = await world.open()
    running = asyncio.create_task(frozen.run(spec))
    await until_blocked(world)
    other = await world.connect_target()
    await other.execute("update eventsource_copy_progress set last_position = 7")
    await gate.open()
    with pytest.raises(DataPlaneError) as caught:
        await running
    assert caught.value.kind == "ownership_lost"


@pytest.mark.parametrize("change", [{"number": 3}, {"snapshot": "1:1:"}, {"snapshot": None}])
async def test_a_pass_that_the_progress_row_does_not_know_is_refused(
    world: World, change: dict[str, Any]
) -> None:
    """A fresh snapshot at resume would lose the rows in flight at the stored one."""
    spec = await world.bulk()
    session = await world.open()
    with pytest.raises(DataPlaneError) as caught:
        await session.run(replace(spec, **change))
    assert caught.value.kind == "ownership_lost"


async def test_a_driver_that_hangs_does_not_hold_up_the_next_one(world: World) -> None:
    """Its open transaction has rows in the target that the next driver has to write."""
    await world.append(50)
    spec = await world.bulk()
    gate = await Gate.close(world)
    hanging = await world.open()
    running = asyncio.create_task(hanging.run(spec))
    await until_blocked(world)
    owner = uuid4()
    await world.target.execute("update eventsource_copy_progress set owner = $1", owner)
    await world.control.execute("update tenant_migrations set driver_owner = $1", owner)
    next_one = await world.open(owner=owner)
    with pytest.raises(DataPlaneError) as caught:
        await running
    assert caught.value.kind == "connection_lost"
    await gate.open()
    assert (await next_one.run(spec)).finished
    await world.assert_moved()


async def test_a_driver_that_is_not_the_recorded_one_ends_nobodys_sessions(world: World) -> None:
    """One that was frozen, and comes back after another one has taken over."""
    await world.append(50)
    spec = await world.bulk()
    session = await world.open()
    await world.open(owner=uuid4())
    assert (await session.run(spec)).finished
    await world.assert_moved()


async def test_fresh_positions_are_mapped_as_they_are_drawn_again(world: World) -> None:
    """The mapping is committed first: what it says of rows that then fail holds no more."""
    before = await world.snapshot()
    await world.append(20)
    spec = await world.start_pass(PassSpec(1, before, None, staged=True))
    fresh: dict[str, Any] = {"offset": 0, "fresh_positions": True}
    await world.target.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'not now' using errcode = '53100'; end $$;"
        f'create constraint trigger refuse after insert on "{TARGET_TABLE}"'
        " deferrable initially deferred for each row execute function refuse()"
    )
    with pytest.raises(DataPlaneError, match="not now"):
        await (await world.open(**fresh)).run(spec)
    assert len(await world.mappings()) == 20
    await world.target.execute(f'drop trigger refuse on "{TARGET_TABLE}"')
    assert (await (await world.open(**fresh)).run(spec)).finished
    there = await world.target.fetch(f'select event_id, global_position from "{TARGET_TABLE}"')
    mapped = {event: position for _, position, event in await world.mappings()}
    assert mapped == dict(map(tuple, there))
    assert min(mapped.values()) > 20


async def test_a_server_that_goes_away_is_a_lost_connection(world: World) -> None:
    await world.append(50)
    spec = await world.bulk()
    session = await world.open()
    await world.target.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'eventsource-migrate' and datname = current_database()"
    )
    with pytest.raises(DataPlaneError) as caught:
        await session.run(spec)
    assert (caught.value.kind, caught.value.detail["side"]) == ("connection_lost", "target")
    again = await world.open()
    await again.run(spec)
    await world.assert_moved()
