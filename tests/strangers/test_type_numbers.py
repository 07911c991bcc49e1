"""Types of the application, which each database numbers for itself, inside arrays and composites.

Their values are compared and not their numbers: what is equal is found equal, and what was
falsified is found and named.
"""

from __future__ import annotations

from typing import Any

import pytest

from eventsource.migration import (
    ConsistencyError,
    ConsistencyVerifier,
    MigrationState,
    VerificationLevel,
)
from eventsource.testing import StoreAddress, read_rows
from tests.strangers.own_types import OWN_TYPES
from tests.support.there_and_back import appended
from tests.support.waiting import until
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World, table

BY_NAME = {each.name: each for each in OWN_TYPES}

#: By set-up: what is changed at the target, and the column in which that is found.
FALSIFIED = {
    "array of enum": ("moods = '{sad,sad}'", "moods"),
    "composite with enum": ("felt = row((felt).m, (felt).n, 'y')::felt", "felt"),
    "array of composites of composites": (
        "heard[1][1].all_of_it[1].m = 'glad'", "heard",
    ),
    "range in a composite": ("span = row(moods('sad', null), '{}')::span", "span"),
    "array of enum generated on both sides": ("m = 'so, so'", "m"),
}  # fmt: skip


async def seeded(world: World, name: str, events: int = 8) -> None:
    stranger = BY_NAME[name]
    await stranger.set_up(world)
    stream = str(world.other)
    for version in range(1, events + 1):
        await world.source.execute(stranger.insert(str(world.tenant), stream, str(version)))
    await assert_numbered_differently(world.source, world.target)


async def assert_numbered_differently(source: Any, target: Any) -> None:
    """Otherwise nothing is shown by what follows."""
    numbers = [
        await side.fetchval(
            "select array_agg(oid order by typname) from pg_type"
            " where typnamespace = 'public'::regnamespace and typtype = 'e'"
            " and typname !~ 'nobodys'"
        )
        for side in (source, target)
    ]
    assert numbers[0]
    assert len(numbers[0]) == len(numbers[1])
    assert not set(numbers[0]) & set(numbers[1])


async def falsified(world: World, migration: Any, change: str) -> int:
    """Change a row at the target as nobody but the migration can; its position at the source."""
    position = await world.target.fetchval(
        f"select max(global_position) from {table('target')} where version = 4"
    )
    await world.target.execute(f"set eventsource.migration = '{migration.id}'")
    await world.target.execute(
        f"update {table('target')} set {change} where global_position = $1", position
    )
    await world.target.execute("reset eventsource.migration")
    return int(position)


@pytest.mark.parametrize("name", FALSIFIED)
async def test_a_falsified_value_is_found_and_named(world: World, name: str) -> None:
    await seeded(world, name)
    migration = await world.dual_write()
    verifier = ConsistencyVerifier(world.here.source, world.here.target)
    levels = [VerificationLevel.HASH, VerificationLevel.FULL]
    for level in levels:
        report = await verifier.verify_tenant_consistency(world.tenant, level)
        assert report.is_consistent
        assert report.source_event_count == 8
    change, column = FALSIFIED[name]
    position = await falsified(world, migration, change)
    for level in levels:
        report = await verifier.verify_tenant_consistency(world.tenant, level)
        found = report.violations[0]
        assert (found.kind, found.version, found.field) == ("different", 4, column)
        assert found.position == position
    with pytest.raises(ConsistencyError):
        await world.coordinator.initiate_cutover(migration.id)
    assert await world.here.append(world.tenant)


async def test_the_mirror_carries_them_and_the_next_pass_finds_them_equal(world: World) -> None:
    await seeded(world, "array of composites of composites")
    migration = await world.dual_write()

    async def mirrored() -> bool:
        await world.here.append(world.tenant)
        stats = world.router.dual_write_stats(world.tenant)
        return stats is not None and stats.mirrored > 0

    await until(mirrored, "the mirror")
    stats = world.router.dual_write_stats(world.tenant)
    assert stats is not None
    assert stats.failures.total_failures == 0
    done = await world.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    await assert_equal(world)


async def test_they_go_back(world: World) -> None:
    await seeded(world, "composite with enum")
    keeper = await world.process(keep_way_back="1h", lease_seconds=1.0)
    migration = await world.dual_write(process=keeper)
    migration = await keeper.coordinator.initiate_cutover(migration.id)
    await appended(keeper, world.tenant)
    back = await keeper.coordinator.return_migration(migration.id)
    assert back.state is MigrationState.MIGRATED
    await assert_equal(world)


async def assert_equal(world: World) -> None:
    """Every value, as text."""
    here = await read_rows(StoreAddress(world.dsns["source"], SOURCE_TABLE), world.tenant)
    there = await read_rows(StoreAddress(world.dsns["target"], TARGET_TABLE), world.tenant)
    assert {each.event_id: each.digest for each in here} == {
        each.event_id: each.digest for each in there
    }
