"""Partitioned tables of other libraries, however they are divided, and a place for every row."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from eventsource.migration import (
    MigrationState,
    PreflightError,
    VerificationLevel,
    background,
)
from eventsource.migration.journaled import comparison, verification
from tests.support import others, partitioned
from tests.support.fingerprint import fingerprint
from tests.support.partitioned import (
    DIVISIONS,
    HASH,
    LIST,
    NESTED,
    RANGE,
    Division,
    appending,
    divided_by,
    equal,
    in_dual_write,
    make_room,
    same,
)
from tests.support.waiting import until
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world


@pytest.mark.parametrize("division", DIVISIONS, ids=str)
async def test_a_tenant_moves_while_writers_use_root_and_leaves(
    division: Division, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    append = appending(division)
    async with layout_world(division.layout, division.make, dsns) as world:
        for tenant in partitioned.TENANTS:
            for number in range(40):
                await append(world.source, tenant, f"s{number % 4}")
        before = [await fingerprint(each, journal=False) for each in (world.source, world.target)]
        aborted = await in_dual_write(world)
        await world.coordinators[0].abort_migration(aborted.id)
        after = [await fingerprint(each, journal=False) for each in (world.source, world.target)]
        assert after == before
        async with others.Writers(dsns["source"], append, ["acme", "umbrella"]) as writers:
            await asyncio.sleep(0.3)
            moved = await world.move("acme")
            await asyncio.sleep(0.3)
        assert moved.state is MigrationState.MIGRATED
        assert writers.errors == []
        assert writers.sent_on == {"acme": 2, "umbrella": 0}
        await equal(world)
        held = {str(row[0]) for row in await world.target.fetch("select id from events")}
        assert set(writers.acknowledged["acme"]) <= held
        assert (
            await world.target.fetchval("select count(*) from events where tenant <> 'acme'") == 0
        )
        await append(world.target, "acme", "s1")
        for _ in range(2):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await append(world.source, "acme", "s1")
            assert refused.value.sqlstate == "EVF01"
            await append(world.source, "initech", "s1")


PLACELESS = [
    (LIST, "drop table events_acme", "no partition for the tenant's row with tenant = acme"),
    (NESTED, "drop table events_acme_f", "with archived = False, tenant = acme"),
    (RANGE, "drop table events_0", "no partition for the tenant's row with position = "),
    (HASH, "drop table events_1", "is divided by hash and lacks some of its partitions"),
]


@pytest.mark.parametrize(
    ("divided", "change", "says"), PLACELESS, indirect=["divided"],
    ids=[str(division) for division, _, _ in PLACELESS],
)  # fmt: skip
async def test_a_target_without_a_place_for_the_tenant_is_refused(
    divided: LayoutWorld, change: str, says: str
) -> None:
    await divided.target.execute(change)
    before = [await fingerprint(each) for each in (divided.source, divided.target)]
    with pytest.raises(PreflightError) as refused:
        await divided.start("acme")
    assert says in str(refused.value)
    assert [await fingerprint(each) for each in (divided.source, divided.target)] == before


@divided_by(RANGE)
async def test_a_place_is_looked_for_where_the_numbers_will_be(divided: LayoutWorld) -> None:
    await divided.target.execute(
        "insert into events (position, id, tenant, stream)"
        " values (90000, gen_random_uuid(), 'native', 's');"
        "alter table events detach partition events_1;"
        "alter table events attach partition events_1 for values from (200) to (90010)"
    )
    with pytest.raises(PreflightError, match="with position = 900"):
        await divided.start("acme")


@divided_by(LIST, NESTED)
async def test_a_default_partition_is_a_place(divided: LayoutWorld) -> None:
    await divided.target.execute(
        "drop table events_acme; create table events_rest partition of events default"
    )
    await divided.move("acme")
    await equal(divided)


@divided_by(RANGE)
async def test_a_place_that_is_missing_later_is_waited_for(divided: LayoutWorld) -> None:
    await make_room(divided)
    migration = await in_dual_write(divided)
    await divided.source.execute(
        "create table late partition of events default;"
        "insert into events (position, id, tenant, stream)"
        " values (150000, gen_random_uuid(), 'acme', 's')"
    )

    async def waits() -> bool:
        now = await divided.coordinators[0].get_migration(migration.id)
        return "has no partition for a row of the tenant" in (now.error_message or "")

    await until(waits, "the migration to say what it waits for")
    await divided.target.execute("create table late partition of events default")
    await until(lambda: same(divided), "the row")
    await divided.reaches(migration, MigrationState.DUAL_WRITE)
    await divided.coordinators[0].initiate_cutover(migration.id)
    await equal(divided)


BY_TIME = Division(
    "range of time", ("position", "at"),
    partitioned.COLUMNS.format(key="position, at", by="range (at)")
    + "create table events_0 partition of events for values from (minvalue) to ('2026-01-01');"
    "create table events_1 partition of events for values from ('2026-01-01') to (maxvalue);",
    "'events_1' || left($1, 0)",
)  # fmt: skip


@divided_by(BY_TIME)
async def test_a_time_in_a_key_is_the_same_whatever_the_writers_time_zone_is(
    divided: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RANGE_ROWS", 7)
    name = await divided.source.fetchval("select current_database()")
    await divided.source.execute(
        f"alter database {name} set timezone = 'Asia/Tokyo';"
        f"alter database {name} set datestyle = 'SQL, DMY'"
    )
    migration = await in_dual_write(divided)
    await divided.coordinators[0].pause_migration(migration.id)
    before = await divided.source.fetchval("select count(*) from events where tenant = 'acme'")
    for zone in ("Asia/Tokyo", "America/St_Johns", "UTC"):
        await divided.source.execute(
            f"set timezone = '{zone}'; update events set data = '{zone}' where tenant = 'acme'"
        )
    assert await divided.source.fetchval("select count(distinct key) from eventsource_changes"
                                         " where fence_id > 0") == before  # fmt: skip
    report = await verification.verify(
        divided.stores[SOURCE], divided.stores[TARGET], "acme", VerificationLevel.FULL
    )
    assert report.differences == ()
    await divided.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(divided), "the updates")
    await divided.reaches(migration, MigrationState.DUAL_WRITE)
    await divided.coordinators[0].initiate_cutover(migration.id)
    await equal(divided)
