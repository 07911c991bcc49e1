"""Rows that the target does not take yet when they are read: none of them is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from eventsource.migration import (
    ConsistencyError,
    CutoverTimeoutError,
    Migration,
    MigrationState,
)
from eventsource.migration.journaled import first_pass, large_pass, passes
from tests.layouts.test_exchanged_values import _same, world
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, rows

__all__ = ["world"]


@pytest.mark.parametrize("force", [False, True], ids=["compared", "forced"])
async def test_children_of_a_row_that_came_later_are_carried(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """The row takes a value that another one has given up since that was carried. Its children do
    not change, so that no trigger writes them down."""
    carry, done = first_pass._write, False

    async def and_change(*given: object) -> None:
        nonlocal done
        await carry(*given)  # type: ignore[arg-type]
        if not done:
            done = True
            await world.source.execute(
                "update streams set name = 'other' where id = 1;"
                " update streams set name = 's1' where id = 5"
            )

    monkeypatch.setattr(first_pass, "_write", and_change)
    monkeypatch.setattr(first_pass, "CHUNK_BYTES", 1)
    coordinator = world.coordinators[0]
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    await coordinator.initiate_cutover(migration.id, force=force)
    assert await _same(world)


async def test_nobody_moves_without_a_row_that_a_large_pass_left_out(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written once and does not change again; at the target its place is taken."""
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    carry, done = large_pass.run, False

    async def large(*given: Any) -> int | None:
        nonlocal done
        rows = await carry(*given)
        done = True
        monkeypatch.undo()
        return rows

    async def is_done() -> bool:
        return done

    monkeypatch.setattr(large_pass, "run", large)
    monkeypatch.setattr(passes, "EXACT_KEYS", 0)
    await world.target.execute(
        "insert into streams values (500, 'stranger', 'theirs');"
        " insert into events overriding system value values (7000, 'stranger', 500)"
    )
    await world.source.execute(
        "insert into events overriding system value values (7000, 'acme', 1)"
    )
    await until(is_done, "a large pass")
    with pytest.raises((ConsistencyError, CutoverTimeoutError), match="events_pkey"):
        await world.coordinators[0].initiate_cutover(migration.id, force=True)
    now = await world.coordinators[0].get_migration(migration.id)
    assert now.state is not MigrationState.MIGRATED


async def test_what_another_row_of_the_target_keeps_out_is_an_error_in_time(
    world: LayoutWorld,
) -> None:
    """It is there before the tenant comes, and no copy will ever change that."""
    await world.target.execute("insert into streams values (500, 'stranger', 's1')")
    migration = await world.start("acme")
    coordinator = world.coordinators[0]

    async def failed() -> Migration | None:
        now = await coordinator.get_migration(migration.id)
        return now if now.state is MigrationState.FAILED else None

    found = await until(failed, "the migration to fail")
    assert found.error_code == ConsistencyError.code
    assert "streams_name_key" in str(found.error_message)
    await coordinator.abort_migration(migration.id)
    assert await rows(world.target, "streams", "tenant <> 'stranger'") == []


async def test_nobody_moves_without_a_row_that_the_target_keeps_out(world: LayoutWorld) -> None:
    """Also where nobody compares."""
    await world.target.execute("insert into streams values (500, 'stranger', 's1')")
    migration = await world.start("acme")
    with pytest.raises((ConsistencyError, CutoverTimeoutError), match="streams_name_key"):
        await world.coordinators[0].initiate_cutover(migration.id, force=True)
    now = await world.coordinators[0].get_migration(migration.id)
    assert now.state is not MigrationState.MIGRATED
