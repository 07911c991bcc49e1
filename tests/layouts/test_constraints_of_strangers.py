"""Constraints of a target that are checked late, or that rows of one table put on each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.journaled import passes
from eventsource.migration.layouts.reading import layout_of
from tests.support import others
from tests.support.worlds.layouts import layout_world, rows

#: As Django makes all of its foreign keys, and what orders rows among each other.
TABLES = """
create table streams (id uuid primary key, tenant text not null, n int not null default 0);
create table events (
    position bigint generated always as identity primary key, id uuid not null unique,
    tenant text not null, stream uuid not null, place int not null{more}
);
"""

LAYOUT = layout_of(
    "late",
    {
        "tables": [
            {"table": "streams", "key": ["id"], "tenant": "tenant", "written_by": "append"},
            {
                "table": "events", "events": True, "key": ["position"], "tenant": "tenant",
                "numbered": {"position": "own"},
            },
        ]
    },
)  # fmt: skip


@dataclass(frozen=True)
class Late:
    name: str
    more: str

    def __str__(self) -> str:
        return self.name


_KEY = ", foreign key (stream) references streams"
LATE = [
    Late("a foreign key", f"{_KEY} deferrable initially deferred"),
    Late("a foreign key that takes children along",
         f"{_KEY} on delete cascade deferrable initially deferred"),
    Late("a unique constraint", f"{_KEY}, unique (stream, place) deferrable initially deferred"),
    Late("a unique constraint that is checked at once",
         f"{_KEY}, unique (stream, place) deferrable"),
    Late("an exclusion", f"{_KEY}, exclude using gist (int4range(place, place, '[]') with &&)"
         " deferrable initially deferred"),
]  # fmt: skip


async def _append(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    event = uuid4()
    async with connection.transaction():
        # Now and then a stream that is new: its event may be read where it was not yet.
        owner = uuid4() if event.int % 3 == 0 else None
        await connection.execute(
            "with new as (insert into streams (id, tenant) select $3, $2 where $3::uuid is not null"
            " returning id)"
            " insert into events (id, tenant, stream, place) select $1, $2, coalesce("
            " (select id from new), (select id from streams where tenant = $2 limit 1)),"
            " coalesce((select max(place) from events), 0) + 1",
            event, tenant, owner,
        )  # fmt: skip
    return str(event)


@pytest.mark.parametrize("case", LATE, ids=str)
async def test_a_constraint_that_is_checked_late_is_met_at_once(
    case: Late, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(TABLES.format(more=case.more))

    async with layout_world(LAYOUT, make, dsns, batch_size=2) as world:
        for tenant in ("acme", "umbrella"):
            await world.source.execute(
                "insert into streams (id, tenant) values (gen_random_uuid(), $1)", tenant
            )
            for _ in range(150):
                await _append(world.source, tenant, "")
        await world.leaves_nothing_when_aborted("acme")
        async with others.Writers(dsns["source"], _append, ["acme"], each=1) as writers:
            await asyncio.sleep(0.2)
            # Rows change their place with others, while they are read and afterwards.
            migration = await world.start("acme")
            await _exchange(world.source, case)
            await world.reaches(migration, MigrationState.DUAL_WRITE)
            await _exchange(world.source, case)
            monkeypatch.setattr(passes, "EXACT_KEYS", 0)
            await _exchange(world.source, case)
            await asyncio.sleep(0.5)
            monkeypatch.undo()
            done = await world.coordinators[0].initiate_cutover(migration.id)
            await asyncio.sleep(0.1)
        assert done.state is MigrationState.MIGRATED
        assert writers.errors == []
        for table in ("streams", "events"):
            here = await rows(world.source, table, "tenant = 'acme'")
            assert await rows(world.target, table, "tenant = 'acme'") == here


async def _exchange(connection: asyncpg.Connection, case: Late) -> None:
    """Within a transaction, as the constraint lets rows do."""
    if "unique (" in case.more or "exclude" in case.more:
        await connection.execute(
            "begin; set constraints all deferred;"
            " with two as (select min(position) as one, max(position) as other from events"
            " where tenant = 'acme' and position < 200)"
            " update events set place = (select e.place from events e, two"
            "   where e.position = case events.position when one then other else one end)"
            " from two where position in (one, other); commit"
        )
