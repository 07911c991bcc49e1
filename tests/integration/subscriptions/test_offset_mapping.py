"""A migration that keeps its offset answers as one that keeps a row for each event."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import product
from uuid import UUID, uuid4

import pytest

from eventsource.migration import (
    MigrationConfig,
    PositionMapper,
    PositionMappingError,
    protocol,
)
from eventsource.migration.models import LAST_POSITION, Migration
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from tests.support.moved_by_hand import CARRIED, SOURCE_ID, TARGET_ID, Move
from tests.support.worlds.three_databases import World

OFFSET = 500

#: The tenant's events are at 2, 5, 8, 11 and 14 of fifteen.
AT_SOURCE = range(-2, 19)


@pytest.fixture
async def moved(source_dsn: str, target_dsn: str, control_dsn: str) -> AsyncIterator[Move]:
    async with Move.between(source_dsn, target_dsn, control_dsn) as made:
        await made.interleave()
        await made.perform(offset=OFFSET)
        yield made


async def by_offset(moved: Move, of: UUID, returns: UUID | None = None) -> UUID:
    """The same migration again, with its offset in place of rows."""
    twin = uuid4()
    await moved.control.execute(
        "insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,"
        " position_offset, fence_position, returns, config) select $1, tenant_id, source_store_id,"
        " target_store_id, state, position_offset, fence_position, $3, $4::text::jsonb"
        " from tenant_migrations where id = $2",
        twin, of, returns, json.dumps({"position_mapping": "offset"}),
    )  # fmt: skip
    if returns is not None:
        await moved.control.execute(
            "insert into migration_position_mappings (migration_id, source_position,"
            " target_position, event_id) select $1, source_position, target_position, event_id"
            " from migration_position_mappings where migration_id = $2",
            twin, of,
        )  # fmt: skip
    return twin


async def go_back(moved: Move, over: UUID, *, events: int) -> UUID:
    """New events at the target, which a return has carried to the next positions of the source."""
    for number in range(events):
        await moved.append(moved.target, uuid4(), 200 + number)
        await moved.append(moved.target, moved.tenant, 100 + number)
    await moved.append(moved.source, uuid4(), 300)
    return await _carried(moved, over, TARGET_ID, SOURCE_ID)


async def go_forth(moved: Move, over: UUID) -> UUID:
    """And forth again, with new events of the source."""
    for number in range(2):
        await moved.append(moved.source, uuid4(), 400 + number)
        await moved.append(moved.source, moved.tenant, 110 + number)
    return await _carried(moved, over, SOURCE_ID, TARGET_ID)


async def _carried(moved: Move, over: UUID, left: str, home: str) -> UUID:
    stores = {SOURCE_ID: moved.source, TARGET_ID: moved.target}
    migration_id = uuid4()
    await moved.control.execute(
        "insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,"
        " fence_position, returns) values ($1, $2, $3, $4, 'migrated', $5, $6)",
        migration_id, str(moved.tenant), left, home,
        await stores[left].get_global_position(), over,
    )  # fmt: skip
    there = await stores[home].pool.fetch(
        "select event_id from events where tenant_id = $1", moved.tenant
    )
    rows = await stores[left].pool.fetch(
        f"select global_position, {CARRIED} from events where tenant_id = $1"
        " and event_id <> all ($2::uuid[]) order by global_position",
        moved.tenant, [row["event_id"] for row in there],
    )  # fmt: skip
    for row in rows:
        places = ", ".join(f"${n}" for n in range(1, len(row)))
        position = await stores[home].pool.fetchval(
            f"insert into events ({CARRIED}) values ({places}) returning global_position",
            *tuple(row)[1:],
        )
        await moved.control.execute(
            "insert into migration_position_mappings (migration_id, source_position,"
            " target_position, event_id) values ($1, $2, $3, $4)",
            migration_id, row["global_position"], position, row["event_id"],
        )  # fmt: skip
    return migration_id


def mapper_of(moved: Move) -> PositionMapper:
    stores = {SOURCE_ID: moved.source, TARGET_ID: moved.target}
    return PositionMapper(PostgreSQLPositionMappingRepository(moved.control), stores)


async def both(moved: Move, rows: UUID, offset: UUID) -> tuple[Migration, Migration]:
    repository = PostgreSQLPositionMappingRepository(moved.control)
    assert await repository.count(rows) > 0
    return await repository.migration(rows), await repository.migration(offset)


async def test_rows_and_an_offset_translate_and_count_equally(moved: Move) -> None:
    """Between events, before the first and after the last one."""
    rows, offset = await both(moved, moved.migration_id, await by_offset(moved, moved.migration_id))
    mapper = mapper_of(moved)
    assert not offset.maps_rows
    assert await mapper.repository.first(offset.id) is None  # type: ignore[attr-defined]
    for position in AT_SOURCE:
        assert await mapper.translate(offset.id, position) == await mapper.translate(
            rows.id, position
        )
    for after, up_to in product([*AT_SOURCE, LAST_POSITION], repeat=2):
        expected = await mapper.count_between(rows, after, up_to)
        assert await mapper.count_between(offset, after, up_to) == expected, (after, up_to)
    for handled, target in product(
        [*AT_SOURCE, LAST_POSITION], [0, *range(OFFSET - 1, OFFSET + 19)]
    ):
        expected = await mapper.count_repeated(rows, handled, target)
        assert await mapper.count_repeated(offset, handled, target) == expected, (handled, target)


async def test_what_is_appended_at_the_target_since_is_not_counted(moved: Move) -> None:
    offset = await by_offset(moved, moved.migration_id)
    mapper = mapper_of(moved)
    await moved.append(moved.target, moved.tenant, 99)
    migration = await mapper.repository.migration(offset)
    assert await mapper.count_between(migration, 0, LAST_POSITION) == 5
    assert await mapper.count_repeated(migration, LAST_POSITION, 0) == 5


@pytest.mark.parametrize("legs", [1, 2])
@pytest.mark.parametrize("events", [0, 3])
async def test_a_return_over_it_skips_and_repeats_what_one_over_rows_does(
    moved: Move, legs: int, events: int
) -> None:
    rows = await go_back(moved, moved.migration_id, events=events)
    offset = await by_offset(moved, rows, await by_offset(moved, moved.migration_id))
    if legs == 2:
        rows, before = await go_forth(moved, rows), offset
        offset = await by_offset(moved, rows, before)
    mapper = mapper_of(moved)
    one = await mapper.repository.migration(rows)
    other = await mapper.repository.migration(offset)
    left, home = (moved.target, moved.source) if legs == 1 else (moved.source, moved.target)
    here = await _positions(home, moved.tenant)
    there = await _positions(left, moved.tenant)
    for position in range(max(there.values()) + 3):
        told = await mapper.translate(offset, position)
        following = {event for event, at in here.items() if at > told}
        assert following >= {event for event, at in there.items() if at > position}, position
        expected = await mapper.translate(rows, position)
        assert following == {event for event, at in here.items() if at > expected}, position
        assert told >= 0
        # Counts are equal to the event, also from a checkpoint that is nobody's translation.
        for other_end in (0, told, expected, expected + 3, LAST_POSITION):
            counts = [
                (
                    await mapper.count_between(each, position, other_end),
                    await mapper.count_repeated(each, position, other_end),
                )
                for each in (one, other)
            ]
            assert counts[0] == counts[1], (position, other_end)


async def _positions(store: object, tenant: UUID) -> dict[UUID, int]:
    rows = await store.pool.fetch(  # type: ignore[attr-defined]
        "select event_id, global_position from events where tenant_id = $1", tenant
    )
    return {row["event_id"]: row["global_position"] for row in rows}


async def test_counting_without_the_stores_says_what_is_missing(moved: Move) -> None:
    offset = await by_offset(moved, moved.migration_id)
    mapper = PositionMapper(PostgreSQLPositionMappingRepository(moved.control))
    assert await mapper.translate(offset, 8) == OFFSET + 8
    migration = await mapper.repository.migration(offset)
    # What is certainly nothing needs no store: a plan for a subscription that has read everything.
    assert await mapper.count_repeated(migration, 15, OFFSET + 15) == 0
    assert await mapper.count_between(migration, 15, LAST_POSITION) == 0
    with pytest.raises(PositionMappingError, match="give PositionMapper its stores"):
        await mapper.count_between(migration, 0, 15)


async def test_counts_stay_exact_when_the_old_rows_are_cleaned_up(world: World) -> None:
    here = world.here
    world.coordinator._config = replace(world.coordinator._config, position_mapping="offset")
    await world.seed(23)
    await world.seed(30, world.other, side="target")
    moved = await world.migrate()
    await here.append(world.tenant)
    repository = PostgreSQLPositionMappingRepository(here.migrations.pool)
    mapper = PositionMapper(repository, here.router.stores)
    assert moved.protocol == protocol.OFFSET
    assert await repository.count(moved.id) == 0
    assert await mapper.count_between(moved, 0, LAST_POSITION) == 23
    found = await world.coordinator.cleanup(moved.id, now=True, backed_up=True)
    assert found.deleted == 23
    assert await mapper.count_between(moved, 0, LAST_POSITION) == 23
    document = await world.coordinator.report(moved.id)
    assert document["migration"]["configuration"]["position_mapping"] == "offset"


def test_what_an_earlier_version_would_misread_needs_a_newer_protocol() -> None:
    assert MigrationConfig().protocol == protocol.FIRST
    assert MigrationConfig(position_mapping="offset").protocol == protocol.OFFSET
    with pytest.raises(ValueError, match='position_mapping must be "rows" or "offset"'):
        MigrationConfig(position_mapping="none")
