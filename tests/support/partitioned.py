"""Partitioned event tables of nobody's library, one for each way to divide rows among leaves.

Writers append through the root and straight into the leaf that takes the row.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.reading import layout_of
from eventsource.migration.models import Migration
from tests.support.worlds.layouts import LayoutWorld, rows

TENANTS = ("acme", "umbrella", "initech")

COLUMNS = """
create sequence events_position;
create table events (
    position bigint not null default nextval('events_position'), id uuid not null,
    tenant varchar not null, stream text not null, at timestamptz not null default now(),
    archived boolean not null default false, data text,
    primary key ({key})
) partition by {by};
"""

_LISTED = "".join(
    f"create table events_{tenant} partition of events for values in ('{tenant}');"
    for tenant in TENANTS
)


@dataclass(frozen=True)
class Division:
    """A way to divide; ``leaf`` is an expression for the leaf of a row with $1 its tenant and $2
    its position."""

    name: str
    key: tuple[str, ...]
    tables: str
    leaf: str

    def __str__(self) -> str:
        return self.name

    @property
    def layout(self) -> Layout:
        return layout_of(
            "divided",
            {
                "tables": [
                    {
                        "table": "events", "events": True, "key": list(self.key),
                        "tenant": "tenant", "numbered": {"position": "own:events_position"},
                    },
                ]
            },
        )  # fmt: skip

    async def make(self, connection: asyncpg.Connection) -> None:
        await connection.execute(self.tables)


LIST = Division(
    "list", ("position", "tenant"),
    COLUMNS.format(key="position, tenant", by="list (tenant)") + _LISTED,
    "'events_' || $1",
)  # fmt: skip

RANGE = Division(
    "range", ("position",),
    COLUMNS.format(key="position", by="range (position)")
    + "create table events_0 partition of events for values from (0) to (200);"
    "create table events_1 partition of events for values from (200) to (maxvalue);",
    "case when $2 < 200 then 'events_0' else 'events_1' end || left($1, 0)",
)  # fmt: skip

HASH = Division(
    "hash", ("position", "tenant"),
    COLUMNS.format(key="position, tenant", by="hash (tenant)")
    + "".join(
        f"create table events_{n} partition of events for values with (modulus 3, remainder {n});"
        for n in range(3)
    ),
    "(select 'events_' || n from generate_series(0, 2) n"
    " where satisfies_hash_partition('events'::regclass, 3, n, $1::varchar))",
)  # fmt: skip

NESTED = Division(
    "list of lists", ("position", "tenant", "archived"),
    COLUMNS.format(key="position, tenant, archived", by="list (tenant)")
    + "".join(
        f"create table events_{tenant} partition of events for values in ('{tenant}')"
        " partition by list (archived);"
        f"create table events_{tenant}_t partition of events_{tenant} for values in (true);"
        f"create table events_{tenant}_f partition of events_{tenant} for values in (false);"
        for tenant in TENANTS
    ),
    "'events_' || $1 || '_f'",
)  # fmt: skip

DIVISIONS = [LIST, RANGE, HASH, NESTED]

_turn = itertools.count()


def appending(division: Division):  # type: ignore[no-untyped-def]
    """How a writer appends: by turns through the root and into the leaf."""

    async def append(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
        event = uuid4()
        position = await connection.fetchval("select nextval('events_position')")
        into = "events"
        if next(_turn) % 2:
            into = await connection.fetchval(
                f"select {division.leaf} where $2::bigint is not null", tenant, position
            )
        await connection.execute(
            f"insert into {into} (position, id, tenant, stream, data)"
            " values ($1, $2, $3, $4, 'x')",
            position, event, tenant, stream,
        )  # fmt: skip
        return str(event)

    return append


async def equal(world: LayoutWorld, tenant: str = "acme") -> None:
    here = await rows(world.source, "events", "tenant = $1", tenant)
    assert await rows(world.target, "events", "tenant = $1", tenant) == here
    assert len(here) > 0


async def same(world: LayoutWorld) -> bool:
    here = await rows(world.source, "events", "tenant = 'acme'")
    return here == await rows(world.target, "events", "tenant = 'acme'")


async def in_dual_write(world: LayoutWorld) -> Migration:
    return await world.reaches(await world.start("acme"), MigrationState.DUAL_WRITE)


def divided_by(*divisions: Division) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("divided", divisions, indirect=True, ids=str)


async def make_room(world: LayoutWorld) -> None:
    for connection in (world.source, world.target):
        await connection.execute(
            "alter table events detach partition events_1;"
            "alter table events attach partition events_1 for values from (200) to (100000)"
        )
