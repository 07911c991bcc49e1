"""Passes of the data plane against two servers: what arrives, and what is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from eventsource.dataplane import DataPlaneError, PassSpec
from eventsource.testing import Cluster
from tests.support.worlds.rows_by_hand import (
    SOURCE_TABLE,
    TARGET_TABLE,
    World,
    bare_world,  # noqa: F401 - the fixture "world"
    copied_ranges,
    until_gone,
)


async def test_the_first_pass_carries_every_row_and_maps_it(world: World) -> None:
    other = uuid4()
    for _ in range(5):
        await world.append(130)
        await world.append(30, tenant=other)
    session = await world.open()
    result = await session.run(await world.bulk())
    assert (result.rows, result.inserted, result.already_present) == (650, 650, 0)
    assert result.finished
    await world.assert_moved()
    row = await world.progress_row()
    assert row["proven_position"] == row["last_position"]
    ranges = await copied_ranges(world)
    assert len(ranges) == 7
    assert sum(rows for _, rows, _ in ranges) == 650
    total = sum(int.from_bytes(digest, "little") for _, _, digest in ranges)
    assert (total % 2**128).to_bytes(16, "little") == result.digest
    assert row["pass_digest"] == result.digest
    assert (row["rows_copied"], row["pass_bytes"]) == (650, result.bytes)
    assert row["last_position"] == result.last_position == session.progress().last_position
    assert session.progress().chunks == 7


async def test_rows_from_before_the_transaction_id_are_carried(world: World) -> None:
    await world.source.execute(
        f"alter table {SOURCE_TABLE} alter transaction_id drop not null;"
        f"alter table {SOURCE_TABLE} alter transaction_id drop default"
    )
    await world.append(10)
    await world.source.execute(
        f"alter table {SOURCE_TABLE} alter transaction_id set default pg_current_xact_id()"
    )
    await world.append(10)
    session = await world.open()
    assert (await session.run(await world.bulk())).rows == 20
    await world.assert_moved()


async def test_a_tenant_without_events_moves(world: World) -> None:
    session = await world.open()
    result = await session.run(await world.bulk())
    assert (result.rows, result.finished, result.digest) == (0, True, bytes(16))
    assert await copied_ranges(world) == []


async def test_wide_rows_make_small_chunks(world: World) -> None:
    await world.append(3, size=5_000_000)
    await world.append(50, size=10)
    session = await world.open(chunk_bytes=1_000_000)
    result = await session.run(await world.bulk())
    assert result.rows == 53
    assert session.progress().chunks >= 4
    await world.assert_moved()


async def test_transactions_in_flight_at_a_snapshot_belong_to_the_next_pass(world: World) -> None:
    """Also in the staged passes, of which the last has no upper snapshot."""
    await world.append(20)
    slow = await world.connect_source()
    transaction = slow.transaction()
    await transaction.start()
    await world.append(3, connection=slow)
    await world.append(4)
    first = await world.bulk()
    session = await world.open(chunk_rows=2)
    assert (await session.run(first)).rows == 24

    await world.append(5)
    await transaction.commit()
    second = await world.start_pass(
        PassSpec(1, first.snapshot, await world.snapshot(), staged=True)
    )
    result = await session.run(second)
    assert (result.rows, result.inserted) == (8, 8)
    assert result.last_transaction_id == (await world.progress_row())["last_xid"]
    await world.append(6)
    third = await world.start_pass(PassSpec(2, second.snapshot, None, staged=True))
    assert (await session.run(third)).rows == 6
    await world.assert_moved()


async def test_a_later_pass_leaves_what_its_snapshot_does_not_show(world: World) -> None:
    await world.append(2)
    first = await world.bulk()
    session = await world.open()
    await session.run(first)
    await world.append(3)
    spec = PassSpec(1, first.snapshot, await world.snapshot(), staged=True)
    await world.append(4)
    assert (await session.run(await world.start_pass(spec))).rows == 3
    assert len(await world.rows("target")) == 5


async def test_mirrored_rows_are_recognised(world: World) -> None:
    first = await world.bulk()
    await world.append(10)
    await world.mirror("global_position % 2 = 0")
    session = await world.open(chunk_rows=4)
    spec = await world.start_pass(PassSpec(1, first.snapshot, None, staged=True))
    result = await session.run(spec)
    assert (result.rows, result.inserted, result.already_present) == (10, 5, 5)
    await world.assert_moved()
    assert (await world.progress_row())["rows_copied"] == 5


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ("""payload = payload || '{"n": 99}'""", "different", "payload"),
        ("actor_id = null", "different", "actor_id"),
        ("event_type = 'Renamed'", "different", "event_type"),
        ("event_id = gen_random_uuid()", "different", "event_id"),
        ("global_position = 500000", "missing", None),
    ],
)
async def test_other_content_on_the_target_stops_the_pass(
    world: World, change: str, kind: str, field: str | None
) -> None:
    first = await world.bulk()
    await world.append(10)
    await world.mirror("version = 4", change=change)
    before = await world.rows("target")
    session = await world.open()
    spec = await world.start_pass(PassSpec(1, first.snapshot, None, staged=True))
    with pytest.raises(DataPlaneError) as caught:
        await session.run(spec)
    source = await world.rows("source")
    assert caught.value.kind == "inconsistent"
    assert caught.value.detail["total"] == 1
    (difference,) = caught.value.detail["differences"]
    assert difference["kind"] == kind
    assert difference["field"] == field
    assert (difference["position"], str(difference["event_id"])) == source[3][:2]
    await until_gone(world)
    assert await world.rows("target") == before
    assert (await world.progress_row())["pass_rows"] == 0


async def test_a_row_that_the_target_changes_is_named_by_the_proof(world: World) -> None:
    """By a trigger of the target here; a disk or a hand would do it as well."""
    await world.append(30)
    spec = await world.bulk()
    table = world.config.target.table
    await world.target.execute(
        "create function spoil() returns trigger language plpgsql as"
        " $$ begin new.actor_id := 'somebody else'; return new; end $$;"
        f' create trigger spoil before insert on "{table}" for each row'
        " when (new.version = 17) execute function spoil()"
    )
    session = await world.open(chunk_rows=10)
    with pytest.raises(DataPlaneError) as caught:
        await session.run(spec)
    assert caught.value.kind == "inconsistent"
    assert caught.value.detail["total"] == 1
    (difference,) = caught.value.detail["differences"]
    assert (difference["kind"], difference["field"]) == ("different", "actor_id")
    source = await world.rows("source")
    assert (difference["position"], str(difference["event_id"])) == source[16][:2]
    assert (await world.progress_row())["proven_position"] <= source[9][0]


async def test_the_reserved_block_of_positions_is_not_left(world: World) -> None:
    await world.append(20)
    session = await world.open(last_target_position=1015)
    with pytest.raises(DataPlaneError) as caught:
        await session.run(await world.bulk())
    assert caught.value.kind == "positions_exhausted"
    assert caught.value.detail["last"] == 1015
    assert await world.rows("target") == []


async def test_an_event_id_that_is_taken_is_a_unique_violation(world: World) -> None:
    await world.append(5)
    await world.mirror("version = 3", change="global_position = 9, tenant_id = null")
    session = await world.open()
    with pytest.raises(DataPlaneError) as caught:
        await session.run(await world.bulk())
    assert caught.value.kind == "unique_violation"
    assert caught.value.sqlstate == "23505"
    assert "event_id" in caught.value.detail["constraint"]


async def test_a_trigger_that_drops_rows_is_noticed(world: World) -> None:
    await world.append(5)
    await world.target.execute(
        "create function skip() returns trigger language plpgsql as"
        " 'begin return case when new.version = 3 then null else new end; end';"
        f'create trigger skip before insert on "{TARGET_TABLE}"'
        " for each row execute function skip()"
    )
    for staged, kind in ((False, "protocol"), (True, "inconsistent")):
        session = await world.open()
        spec = PassSpec(0, None, await world.snapshot(), staged)
        with pytest.raises(DataPlaneError) as caught:
            await session.run(await world.start_pass(spec))
        assert caught.value.kind == kind
    assert await world.rows("target") == []


async def test_the_rate_is_kept_and_can_be_lifted(world: World) -> None:
    await world.append(3000)
    spec = await world.bulk()
    session = await world.open(max_events_per_second=500.0)
    began = asyncio.get_running_loop().time()
    running = asyncio.create_task(session.run(spec))
    await asyncio.sleep(2)
    copied = session.progress().rows
    assert 800 <= copied <= 1300
    session.set_rate(None)
    result = await running
    assert result.rows == 3000
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_standby_is_not_read(world: World) -> None:
    with Cluster.start(16, fsync=False) as standby:
        dsn = await standby.create_database("copy")
        (standby.data_dir / "standby.signal").touch(mode=0o644)
        standby.restart()
        with pytest.raises(DataPlaneError) as caught:
            await world.open(source=replace(world.config.source, dsn=dsn))
    assert caught.value.kind == "standby"
