"""The mapping repository on real tables, and the mapper over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import PositionMapper, create_schema
from eventsource.migration.errors import MigrationNotFoundError
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository, positions


@pytest.fixture
async def pool(control_dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(control_dsn, min_size=1, max_size=4) as pool:
        await create_schema(pool)
        yield pool


async def record_migration(
    pool: asyncpg.Pool,
    mapping: Mapping[int, int],
    *,
    state: str = "migrated",
    offset: int | None = None,
    fence: int | None = None,
) -> UUID:
    """A migration and its mapping, as the driver and the data plane leave them."""
    migration_id = uuid4()
    await pool.execute(
        "insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,"
        " position_offset, fence_position) values ($1, $2, 'shared', 'dedicated', $3, $4, $5)",
        migration_id, str(uuid4()), state, offset, fence,
    )  # fmt: skip
    await pool.copy_records_to_table(
        "migration_position_mappings",
        records=[(migration_id, source, target, uuid4()) for source, target in mapping.items()],
        columns=["migration_id", "source_position", "target_position", "event_id"],
    )
    return migration_id


async def test_the_repository_finds_rows_of_its_own_migration_only(pool: asyncpg.Pool) -> None:
    await record_migration(pool, {1: 1001, 7: 1007, 90: 1090})
    mine = await record_migration(pool, {4: 14, 6: 16, 9: 19})
    repository = PostgreSQLPositionMappingRepository(pool)

    first, last = await repository.first(mine), await repository.last(mine)
    assert first is not None
    assert last is not None
    assert (first.source_position, first.target_position) == (4, 14)
    assert (last.source_position, last.target_position) == (9, 19)
    following = await repository.next_after(mine, 4)
    assert following is not None
    assert following.source_position == 6
    assert isinstance(following.event_id, UUID)
    assert await repository.next_after(mine, 9) is None
    assert await repository.lowest_target_after(mine, 6) == 19
    assert await repository.lowest_target_after(mine, 9) is None
    assert await repository.highest_target(mine) == 19


async def test_counts_are_open_below_and_closed_above(pool: asyncpg.Pool) -> None:
    await record_migration(pool, {5: 5})
    mine = await record_migration(pool, {4: 14, 6: 16, 9: 19})
    repository = PostgreSQLPositionMappingRepository(pool)
    assert await repository.count(mine) == 3
    assert await repository.count(mine, after=4) == 2
    assert await repository.count(mine, up_to=6) == 2
    assert await repository.count(mine, after=4, up_to=6) == 1
    assert await repository.count(mine, target_after=16) == 1
    assert await repository.count(mine, up_to=6, target_after=14) == 1


async def test_a_migration_without_a_mapping_has_no_first_and_no_last(pool: asyncpg.Pool) -> None:
    mine = await record_migration(pool, {})
    repository = PostgreSQLPositionMappingRepository(pool)
    assert await repository.first(mine) is None
    assert await repository.last(mine) is None
    assert await repository.highest_target(mine) is None
    assert await repository.count(mine) == 0
    assert await repository.delete(mine) == 0
    with pytest.raises(MigrationNotFoundError):
        await repository.migration(uuid4())


@pytest.mark.parametrize("rows", [1, 6, 7, 8])
async def test_deleting_goes_page_by_page_and_leaves_other_migrations(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(positions, "_DELETE_PAGE", 3)
    other = await record_migration(pool, {position: position for position in range(1, 12)})
    mine = await record_migration(pool, {3 * n: n for n in range(1, rows + 1)})
    repository = PostgreSQLPositionMappingRepository(pool)
    assert await repository.delete(mine) == rows
    assert await repository.count(mine) == 0
    assert await repository.count(other) == 11
    assert await repository.delete(mine) == 0


@pytest.mark.parametrize(
    ("checkpoint", "carried", "mapped"),
    [
        (0, 100, 101),  # below the first event
        (2, 102, 119),
        (3, 103, 119),  # between two events
        (4, 104, 120),  # none greater: the last mapped position
        (6, 106, 120),
        (7, 106, 120),  # beyond the fence
    ],
)
async def test_carried_positions_and_mapping_rows_are_translated_from_the_tables(
    pool: asyncpg.Pool, checkpoint: int, carried: int, mapped: int
) -> None:
    with_offset = await record_migration(pool, {2: 102, 4: 104}, offset=100, fence=6)
    with_rows_only = await record_migration(pool, {2: 102, 4: 120})
    mapper = PositionMapper(PostgreSQLPositionMappingRepository(pool))
    assert await mapper.translate(with_offset, checkpoint) == carried
    assert await mapper.translate(with_rows_only, checkpoint) == mapped
