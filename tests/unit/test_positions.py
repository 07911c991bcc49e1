"""The translation of checkpoints, against its definition: the largest t with every tenant event at
target <= t having source position <= c."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventsource.migration.errors import MigrationNotFoundError, PositionMappingError
from eventsource.migration.states import MigrationState
from eventsource.migration.subscriptions.positions import PositionMapper
from tests.support.mapping_in_memory import MappingInMemory, migration_record

HIGHEST = 60
positions = st.integers(min_value=1, max_value=HIGHEST)
checkpoints = st.integers(min_value=0, max_value=HIGHEST + 20)
offsets = st.sampled_from([0, 1, 7, 1_000_000_007])


Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(coroutine)


def delivered_above(target_checkpoint: int, targets: set[int]) -> set[int]:
    return {target for target in targets if target > target_checkpoint}


@given(
    tenant=st.sets(positions),
    head_beyond_last=st.integers(min_value=0, max_value=15),
    checkpoint=checkpoints,
    offset=offsets,
    appended_after_flip=st.integers(min_value=0, max_value=3),
)
@example(tenant={3, 9}, head_beyond_last=4, checkpoint=6, offset=7, appended_after_flip=1)
@example(tenant={3, 9}, head_beyond_last=4, checkpoint=70, offset=0, appended_after_flip=2)
@example(tenant=set(), head_beyond_last=0, checkpoint=0, offset=0, appended_after_flip=1)
def test_a_carried_checkpoint_delivers_exactly_what_the_largest_valid_one_delivers(
    tenant: set[int],
    head_beyond_last: int,
    checkpoint: int,
    offset: int,
    appended_after_flip: int,
) -> None:
    fence = max(tenant, default=0) + head_beyond_last
    record = migration_record(position_offset=offset, fence_position=fence)
    mapper = PositionMapper(MappingInMemory(record, {p: p + offset for p in tenant}))

    translated = run(mapper.translate(record.id, checkpoint))

    new_events = {fence + offset + 1 + n for n in range(appended_after_flip)}
    on_target = {p + offset for p in tenant} | new_events
    not_handled = {p + offset for p in tenant if p > checkpoint} | new_events
    largest = min(not_handled, default=None)
    assert largest is None or translated < largest, "an event would be skipped"
    assert delivered_above(translated, on_target) == not_handled


@st.composite
def monotone_mappings(draw: st.DrawFn) -> dict[int, int]:
    sources = sorted(draw(st.sets(positions, min_size=1, max_size=12)))
    targets = draw(
        st.sets(
            st.integers(min_value=1, max_value=200), min_size=len(sources), max_size=len(sources)
        )
    )
    return dict(zip(sources, sorted(targets), strict=True))


@st.composite
def crossing_mappings(draw: st.DrawFn) -> dict[int, int]:
    mapping = draw(monotone_mappings())
    return dict(zip(mapping, draw(st.permutations(list(mapping.values()))), strict=True))


def largest_valid(mapping: dict[int, int], checkpoint: int) -> int:
    """By trying every t up to the last mapped position, which bounds what is known."""
    return max(
        t
        for t in range(max(mapping.values()) + 1)
        if all(source <= checkpoint for source, target in mapping.items() if target <= t)
    )


@given(mapping=monotone_mappings(), checkpoint=checkpoints)
@example(mapping={5: 2, 8: 3}, checkpoint=0)
@example(mapping={5: 2, 8: 3}, checkpoint=5)
@example(mapping={5: 2, 8: 3}, checkpoint=6)
@example(mapping={5: 2, 8: 3}, checkpoint=8)
def test_any_monotone_mapping_translates_to_the_largest_valid_position(
    mapping: dict[int, int], checkpoint: int
) -> None:
    record = migration_record()
    mapper = PositionMapper(MappingInMemory(record, mapping))

    translated = run(mapper.translate(record.id, checkpoint))

    assert translated == largest_valid(mapping, checkpoint)
    assert run(mapper.count_repeated(record, checkpoint, translated)) == 0


@given(mapping=crossing_mappings(), checkpoint=checkpoints)
def test_a_mapping_that_crosses_itself_skips_nothing_and_predicts_what_comes_again(
    mapping: dict[int, int], checkpoint: int
) -> None:
    record = migration_record()
    mapper = PositionMapper(MappingInMemory(record, mapping))

    translated = run(mapper.translate(record.id, checkpoint))

    assert translated == largest_valid(mapping, checkpoint)
    delivered = {source for source, target in mapping.items() if target > translated}
    assert {source for source in mapping if source > checkpoint} <= delivered
    repeated = len([source for source in delivered if source <= checkpoint])
    assert run(mapper.count_repeated(record, checkpoint, translated)) == repeated


@given(
    tenant=st.sets(positions),
    checkpoint=checkpoints,
    offset=offsets,
    behind=st.integers(min_value=0, max_value=30),
)
def test_events_above_an_older_target_checkpoint_are_counted_exactly(
    tenant: set[int], checkpoint: int, offset: int, behind: int
) -> None:
    record = migration_record(position_offset=offset, fence_position=HIGHEST + 20)
    mapper = PositionMapper(MappingInMemory(record, {p: p + offset for p in tenant}))
    older = checkpoint + offset - behind

    expected = len([p for p in tenant if p <= checkpoint and p + offset > older])
    assert run(mapper.count_repeated(record, checkpoint, older)) == expected


def test_before_the_cutover_there_is_no_fence_and_the_offset_alone_translates() -> None:
    record = migration_record(state=MigrationState.DUAL_WRITE, position_offset=100)
    mapper = PositionMapper(MappingInMemory(record, {4: 104}))
    assert run(mapper.translate(record.id, 9)) == 109


@pytest.mark.parametrize("state", [MigrationState.ROLLED_BACK, MigrationState.FAILED])
def test_a_migration_that_moved_nothing_translates_nothing(state: MigrationState) -> None:
    record = migration_record(state=state, position_offset=0)
    mapper = PositionMapper(MappingInMemory(record, {}))
    with pytest.raises(PositionMappingError, match=f"is {state}.*still lives in 'shared'"):
        run(mapper.translate(record.id, 1))


def test_a_migrated_row_without_its_fence_is_refused_rather_than_guessed() -> None:
    """A checkpoint above an unknown fence would skip the tenant's first events at the target."""
    record = migration_record(position_offset=0)
    mapper = PositionMapper(MappingInMemory(record, {4: 4}))
    with pytest.raises(PositionMappingError, match="fence_position"):
        run(mapper.translate(record.id, 9))


def test_a_mapping_row_that_disagrees_with_the_offset_is_refused() -> None:
    record = migration_record(position_offset=10, fence_position=20)
    mapper = PositionMapper(MappingInMemory(record, {4: 14, 6: 17}))
    assert run(mapper.translate(record.id, 3)) == 13
    with pytest.raises(PositionMappingError, match="mapped from 6 to 17"):
        run(mapper.translate(record.id, 5))


def test_neither_offset_nor_mapping_is_an_error_and_so_is_an_unknown_migration() -> None:
    record = migration_record(state=MigrationState.PENDING)
    mapper = PositionMapper(MappingInMemory(record, {}))
    with pytest.raises(PositionMappingError, match="mapped no event"):
        run(mapper.translate(record.id, 3))
    with pytest.raises(MigrationNotFoundError):
        run(mapper.translate(migration_record().id, 3))
