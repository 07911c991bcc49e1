"""Columns of a layout whose arrays and composites hold types that each database numbers itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventsource.migration import MigrationState, VerificationLevel, background
from eventsource.migration.journaled import verification
from eventsource.migration.layouts.reading import layout_of
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world, rows

NOTES = layout_of(
    "notes",
    {
        "tables": [
            {
                "table": "notes", "events": True, "key": ["id"], "tenant": "tenant",
                "written_by": "append",
            },
        ]
    },
)  # fmt: skip


@pytest.fixture
async def notes(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """A table of another library with such a column."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    made: list[Any] = []

    async def make(connection: Any) -> None:
        for number in range(3 * len(made)):
            await connection.execute(f"create type nobodys_{number} as enum ()")
        made.append(connection)
        await connection.execute(
            "create type mood as enum ('glad', 'sad'); create type felt as (m mood, n int);"
            " create table notes (id uuid primary key, tenant text not null, ms mood[],"
            " felt felt[])"
        )

    async with layout_world(NOTES, make, dsns) as world:
        await world.source.execute(
            "insert into notes select md5(i::text)::uuid, 'acme', array['glad', null]::mood[],"
            " array[row('sad', i)::felt] from generate_series(1, 50) i"
        )
        yield world


async def test_rows_of_a_layout_are_compared_by_value(notes: LayoutWorld) -> None:
    numbers = [
        await side.fetchval("select 'mood'::regtype::oid::bigint")
        for side in (notes.source, notes.target)
    ]
    assert numbers[0] != numbers[1]
    migration = await notes.start("acme")
    await notes.reaches(migration, MigrationState.DUAL_WRITE)
    await notes.source.execute(
        "update notes set felt = array[row('glad', -1)::felt, null] where id = md5('1')::uuid"
    )
    levels = (VerificationLevel.HASH, VerificationLevel.FULL)
    for level in levels:
        report = await verification.verify(
            notes.stores[SOURCE], notes.stores[TARGET], "acme", level
        )
        assert report.is_consistent, report.differences
    change = "update notes set felt[1].n = 0 where id = md5('2')::uuid"
    await notes.target.execute(
        f"set eventsource.migration = '{migration.id}'; {change}; reset eventsource.migration"
    )
    for level in levels:
        report = await verification.verify(
            notes.stores[SOURCE], notes.stores[TARGET], "acme", level
        )
        assert "column felt" in str(report.differences[0])
    await notes.source.execute("update notes set ms = '{sad}' where id = md5('2')::uuid")
    done = await notes.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert await rows(notes.target, "notes", "true") == await rows(notes.source, "notes", "true")
