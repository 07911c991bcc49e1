"""What somebody does to the tables while a tenant moves out of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.layouts.reading import layout_of
from tests.support import others
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

LAYOUT = layout_of(
    "changed",
    {
        "tables": [
            {
                "table": "events", "events": True, "key": ["position"], "tenant": "tenant",
                "numbered": {"position": "own"},
            }
        ]
    },
)  # fmt: skip

NOTE = "alter table events add column note text"


@pytest.fixture
async def world(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """Tables of a library with some rows, one of whose columns is not used any more."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "create table events (position bigint generated always as identity primary key,"
            " id uuid not null unique, tenant text not null, unused text default 'u')"
        )

    async with layout_world(LAYOUT, make, dsns) as made:
        for _ in range(50):
            await append(made.source, "acme", "")
        yield made


async def append(connection: asyncpg.Connection, tenant: str, _: str) -> str:
    event = uuid4()
    await connection.execute("insert into events (id, tenant) values ($1, $2)", event, tenant)
    return str(event)


async def _arrives(world: LayoutWorld, *changes: tuple[str, str], says: str | None = None) -> None:
    """While it writes, and each change is made on one side after the other."""
    async with others.Writers(world.dsns["source"], append, ["acme"], each=1) as writers:
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        for side, change in changes:
            if says is not None and side == "target":

                async def waits() -> bool:
                    found = await world.coordinators[0].get_migration(migration.id)
                    return says in (found.error_message or "")

                await until(waits, "the migration to say what it waits for")
            await getattr(world, side).execute(change)
            await asyncio.sleep(0.2)
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        done = await world.coordinators[0].initiate_cutover(migration.id)
        await asyncio.sleep(0.05)
    assert done.state is MigrationState.MIGRATED
    assert writers.errors == []
    here = await rows(world.source, "events", "true")
    assert await rows(world.target, "events", "true") == here
    assert len(here) > 50


async def test_a_column_that_both_sides_get_is_carried(world: LayoutWorld) -> None:
    await _arrives(
        world, ("target", NOTE), ("source", f"{NOTE} default 'n'"),
        ("source", "update events set note = 'later' where position % 3 = 0"),
    )  # fmt: skip


async def test_a_column_that_the_target_lacks_is_waited_for(world: LayoutWorld) -> None:
    await _arrives(
        world, ("source", f"{NOTE} default 'n'"), ("target", NOTE),
        says="lacks the source's column note",
    )  # fmt: skip


async def test_a_type_that_the_target_gets_later_is_waited_for(world: LayoutWorld) -> None:
    change = "alter table events alter column unused type varchar(20)"
    await _arrives(world, ("source", change), ("target", change), says="is character varying(20)")


async def test_a_column_that_both_sides_lose_is_carried_no_more(world: LayoutWorld) -> None:
    change = "alter table events drop column unused"
    await _arrives(world, ("source", change), ("target", change))


async def test_upkeep_of_the_tables_disturbs_nothing(world: LayoutWorld) -> None:
    work = (
        "vacuum full events", "cluster events using events_pkey",
        "reindex table concurrently events", "analyze events",
        "create index concurrently by_tenant on events (tenant)",
        "alter index events_pkey rename to by_position", "alter table events replica identity full",
    )  # fmt: skip
    await _arrives(world, *((side, each) for each in work for side in ("target", "source")))
