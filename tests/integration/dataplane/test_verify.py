"""Verification against two servers: what it sees at each level, also while both are written to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from eventsource.dataplane import (
    DataPlaneError,
    PassSpec,
    Verification,
    VerifyConfig,
    VerifyResult,
)
from tests.support.worlds.rows_by_hand import (
    COLUMNS,
    SOURCE_TABLE,
    TARGET_TABLE,
    World,
    build_world,
)

LEVELS = ["count", "hash", "full"]

#: Of the six streams all are named, or they are so many that the source counts them.
NAMED = pytest.mark.parametrize("most_names", [32_768, 4], ids=["named", "counted"])


@pytest.fixture
async def world(source_dsn: str, target_dsn: str, control_dsn: str) -> AsyncIterator[World]:
    world = await build_world(source_dsn, target_dsn, control_dsn)
    for _ in range(6):
        await world.append(50)
        await world.append(20, tenant=uuid4())
    spec = await world.bulk()
    await (await world.open()).run(spec)
    world.proven = spec.snapshot
    yield world
    await world.close()


async def verify(world: World, level: str, **changes: Any) -> VerifyResult:
    values = {"snapshot": world.proven, **changes}
    config = replace(
        VerifyConfig(
            world.config.source,
            world.config.target,
            world.tenant,
            COLUMNS,
            world.config.offset,
            level,
        ),
        **values,
    )
    return await Verification.start(config).result()


def assert_consistent(result: VerifyResult, events: int, streams: int) -> None:
    assert result.violations == []
    assert result.inconsistent_streams == []
    assert (result.source_event_count, result.target_event_count) == (events, events)
    assert (result.streams_verified, result.streams_consistent) == (streams, streams)
    assert not result.streams_estimated


async def change_target(world: World, position: int, change: str) -> None:
    await world.target.execute(
        f'update "{TARGET_TABLE}" set {change} where global_position = $1',
        position + world.config.offset,
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("parallelism", [1, 3])
@NAMED
async def test_what_was_moved_is_consistent(
    world: World, level: str, parallelism: int, most_names: int
) -> None:
    how = {"parallelism": parallelism, "most_names": most_names}
    assert_consistent(await verify(world, level, **how), 300, 6)
    assert_consistent(await verify(world, level, snapshot=None, **how), 300, 6)


@pytest.mark.parametrize("level", LEVELS)
async def test_rows_on_their_way_are_no_difference(world: World, level: str) -> None:
    await world.append(10)
    await world.append(5)
    position = await world.source.fetchval(f"select max(global_position) from {SOURCE_TABLE}")
    await world.mirror(f"global_position > {position - 7}")
    assert_consistent(await verify(world, level), 300, 6)


@pytest.mark.parametrize("level", LEVELS)
@NAMED
async def test_a_missing_and_an_unexpected_row_are_seen_at_every_level(
    world: World, level: str, most_names: int
) -> None:
    await world.target.execute(
        f'delete from "{TARGET_TABLE}" where global_position = $1', 7 + world.config.offset
    )
    await world.append(1)
    await world.mirror("version = 1", change="actor_id = 'x'", newest=True)
    stray = await world.source.fetchval(
        f"delete from {SOURCE_TABLE} where global_position ="
        f" (select max(global_position) from {SOURCE_TABLE}) returning event_id"
    )
    result = await verify(world, level, most_names=most_names)
    missing, unexpected = result.violations
    assert (missing.kind, missing.position, missing.version) == ("missing", 7, 7)
    assert (unexpected.kind, unexpected.event_id) == ("unexpected", stray)
    assert (result.source_event_count, result.target_event_count) == (300, 300)
    assert (result.streams_verified, result.streams_consistent) == (7, 5)
    assert not result.streams_estimated
    one, other = sorted(result.inconsistent_streams, key=lambda stream: stream.target_events)
    assert (one.source_events, one.target_events, one.target_version) == (0, 1, 1)
    assert (other.source_events, other.target_events, other.source_version) == (50, 49, 50)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["it's", "back\\slash", "\\'", "two\nlines", "%s {} $1"])
async def test_a_stream_may_be_of_a_type_with_any_name(world: World, level: str, kind: str) -> None:
    for side, table in ((world.source, SOURCE_TABLE), (world.target, TARGET_TABLE)):
        await side.execute(f'update "{table}" set aggregate_type = $1', kind)
    await world.target.execute(
        f'delete from "{TARGET_TABLE}" where global_position = $1', 7 + world.config.offset
    )
    result = await verify(world, level)
    assert [(each.kind, each.position) for each in result.violations] == [("missing", 7)]
    assert [each.aggregate_type for each in result.inconsistent_streams] == [kind]
    assert (result.streams_verified, result.streams_consistent) == (6, 5)


@pytest.mark.parametrize("level", LEVELS)
async def test_a_last_version_is_seen_at_every_level(world: World, level: str) -> None:
    await change_target(world, 50, "version = 51")
    (violation,) = (await verify(world, level)).violations
    assert (violation.kind, violation.position, violation.field) == ("different", 50, "version")


@pytest.mark.parametrize("level", ["hash", "full"])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("""payload = jsonb_set(payload, '{n}', '4')""", "payload"),
        ("metadata = '{\"a\": 1.0}'", "metadata"),
        ("timestamp = timestamp + interval '1 microsecond'", "timestamp"),
        ("actor_id = ''", "actor_id"),
        ("event_id = gen_random_uuid()", "event_id"),
        ("created_at = '-infinity'", "created_at"),
        ("aggregate_id = gen_random_uuid()", "aggregate_id"),
    ],
)
async def test_a_changed_field_is_named(world: World, level: str, change: str, field: str) -> None:
    await change_target(world, 13, change)
    result = await verify(world, level)
    (violation,) = result.violations
    expected = await world.source.fetchrow(
        f"select * from {SOURCE_TABLE} where global_position = 13"
    )
    assert expected is not None
    assert (violation.kind, violation.field, violation.position) == ("different", field, 13)
    assert violation.event_id == expected["event_id"]
    assert violation.aggregate_id == expected["aggregate_id"]
    assert (violation.aggregate_type, violation.version) == ("Order", 13)
    assert (result.streams_verified, result.streams_consistent) == (6, 5)
    assert (result.source_event_count, result.target_event_count) == (300, 300)


async def test_two_swapped_events_are_seen(world: World) -> None:
    offset = world.config.offset
    await change_target(world, 21, "global_position = 900000")
    await change_target(world, 22, f"global_position = {21 + offset}")
    await world.target.execute(
        f'update "{TARGET_TABLE}" set global_position = $1 where global_position = 900000',
        22 + offset,
    )
    for level in ("hash", "full"):
        result = await verify(world, level)
        assert {violation.position for violation in result.violations} == {21, 22}
        assert {"event_id", "version"} <= {violation.field for violation in result.violations}
    # Neither a count nor a last version changes: the table of levels says so.
    assert (await verify(world, "count")).violations == []


async def test_counting_does_not_see_content(world: World) -> None:
    await change_target(world, 13, "actor_id = 'else'")
    assert_consistent(await verify(world, "count"), 300, 6)


@pytest.mark.parametrize("level", LEVELS)
async def test_the_report_is_bounded_and_its_counts_are_not(world: World, level: str) -> None:
    await world.target.execute(f'delete from "{TARGET_TABLE}"')
    result = await verify(world, level, max_violations=4)
    assert len(result.violations) == 4
    assert len(result.inconsistent_streams) <= 4
    assert (result.source_event_count, result.target_event_count) == (300, 0)
    assert (result.streams_verified, result.streams_consistent) == (6, 0)


async def test_more_differing_streams_than_are_named_are_counted_about_right(world: World) -> None:
    """A source can count its own streams, and no server can count those that differ."""
    for _ in range(600):
        await world.append(1)
    await world.target.execute(f'delete from "{TARGET_TABLE}"')
    result = await verify(world, "hash", snapshot=None, most_names=128, salt=7)
    assert result.streams_estimated
    assert result.streams_verified == 606
    assert 0 <= result.streams_consistent < 606 // 4
    assert len(result.streams_differing) == len(result.streams_seen) == 128 * 8


async def test_what_comes_after_a_position_is_counted_from_there(world: World) -> None:
    """As before a cutover: of the streams only those with events newer than the bulk copy."""
    last = await world.source.fetchval(
        f"select max(global_position) from {SOURCE_TABLE} where tenant_id = $1", world.tenant
    )
    for _ in range(9):
        await world.append(2)
    await world.mirror(f"global_position > {last}")
    for most_names in (32_768, 4):
        result = await verify(
            world, "hash", snapshot=None, after=last, began_after=last, most_names=most_names
        )
        assert_consistent(result, 18, 9)


async def test_a_source_that_cannot_count_makes_the_number_an_estimate(world: World) -> None:
    """The two sides are equal all the same: too little room for a count is no difference."""
    await world.source.execute(
        f"insert into {SOURCE_TABLE} (event_id, aggregate_id, aggregate_type, event_type,"
        " tenant_id, version, timestamp, payload) select gen_random_uuid(), gen_random_uuid(),"
        " 'Order', 'Changed', $1, 1, now(), '{}' from generate_series(1, 3000)",
        world.tenant,
    )
    await world.mirror("global_position > 420")
    role = await world.source.fetchval("select quote_ident(current_user)")
    await world.source.execute(
        f"alter role {role} set work_mem = '64kB'; alter role {role} set temp_file_limit = 0"
    )
    try:
        result = await verify(world, "hash", snapshot=None, most_names=1000, salt=7)
    finally:
        await world.source.execute(
            f"alter role {role} reset work_mem; alter role {role} reset temp_file_limit"
        )
    assert result.violations == []
    assert result.streams_estimated
    assert 2_500 < result.streams_verified < 3_500
    assert result.streams_consistent == result.streams_verified
    assert result.source_event_count == result.target_event_count == 3_300


@pytest.mark.parametrize("level", LEVELS)
async def test_a_sample_takes_whole_streams_alike_on_both_sides(world: World, level: str) -> None:
    for _ in range(30):
        await world.append(2)
    await world.mirror("global_position > 420")
    result = await verify(world, level, sample_percentage=40.0, snapshot=None)
    assert result.violations == []
    assert 0 < result.streams_verified < 36
    assert result.source_event_count == result.target_event_count


@pytest.mark.parametrize("level", LEVELS)
async def test_rows_behind_the_last_position_are_left_out(world: World, level: str) -> None:
    last = await world.source.fetchval(f"select max(global_position) from {SOURCE_TABLE}")
    await world.append(3)
    await world.mirror("version = 1", newest=True)
    await world.source.execute(f"delete from {SOURCE_TABLE} where global_position > $1", last)
    result = await verify(world, level, last_source_position=last, snapshot=None)
    assert_consistent(result, 300, 6)


async def test_it_is_exact_while_writer_and_mirror_go_on(world: World) -> None:
    """The mirror commits at the target after the source, as it does in the router."""
    stop = asyncio.Event()

    async def write() -> int:
        written = 0
        while not stop.is_set():
            await world.append(3)
            await world.mirror("true", newest=True)
            written += 1
        return written

    writer = asyncio.create_task(write())
    for level in LEVELS * 3:
        assert_consistent(await verify(world, level), 300, 6)
    stop.set()
    assert await writer > 0


async def test_an_empty_tenant_is_consistent(world: World) -> None:
    nobody = VerifyConfig(
        world.config.source, world.config.target, uuid4(), COLUMNS, 0, "hash", parallelism=2
    )
    assert_consistent(await Verification.start(nobody).result(), 0, 0)


async def test_a_verification_that_is_given_up_ends(world: World) -> None:
    await world.source.execute(f"begin; lock table {SOURCE_TABLE} in access exclusive mode")
    config = VerifyConfig(
        world.config.source, world.config.target, world.tenant, COLUMNS, 0, "hash"
    )
    verification = Verification.start(config)
    waiting = asyncio.create_task(verification.result())
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await world.source.execute("rollback")


async def test_failures_are_typed(world: World) -> None:
    with pytest.raises(DataPlaneError) as caught:
        await verify(world, "hash", columns=(*COLUMNS, "no_such_column"))
    assert (caught.value.kind, caught.value.sqlstate) == ("sql", "42703")
    for bad in ({"sample_percentage": 0.0}, {"parallelism": 0}, {"snapshot": "1:2"}):
        with pytest.raises(DataPlaneError) as caught:
            await verify(world, "hash", **bad)
        assert caught.value.kind == "protocol"


async def test_row_security_is_an_error_and_not_a_filter(world: World) -> None:
    await world.target.execute(
        f'alter table "{TARGET_TABLE}" enable row level security;'
        " create role restricted login password 'secret-of-it';"
        f' grant select on "{TARGET_TABLE}" to restricted'
    )
    try:
        user, rest = str(world.config.target.dsn).split("@", 1)
        dsn = f"postgresql://restricted:secret-of-it@{rest}"
        assert user
        config = VerifyConfig(
            world.config.source,
            type(world.config.target)(dsn, "public", TARGET_TABLE),
            world.tenant,
            COLUMNS,
            world.config.offset,
            "hash",
        )
        with pytest.raises(DataPlaneError) as caught:
            await Verification.start(config).result()
        assert caught.value.sqlstate == "42501"
    finally:
        await world.target.execute("drop owned by restricted; drop role restricted")


async def test_a_pass_and_a_verification_agree(world: World) -> None:
    await world.append(40)
    spec = PassSpec(1, world.proven, await world.snapshot(), staged=True)
    session = await world.open()
    await session.run(await world.start_pass(spec))
    world.proven = spec.snapshot
    assert_consistent(await verify(world, "full"), 340, 7)
