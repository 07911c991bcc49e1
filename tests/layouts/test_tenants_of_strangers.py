"""Columns in which the tenant stands, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.reading import layout_of
from tests.support.worlds.layouts import layout_world, rows

TABLE = """
create table events (
    id {key} primary key default gen_random_uuid(), n int not null, data jsonb, {tenant}
);
"""


@dataclass(frozen=True)
class Kind:
    name: str
    tenant: str
    both: str = ""
    key: str = "uuid"
    declared: Any = "tenant"
    insert: str = "insert into events (tenant, n) select $1, i from generate_series($2::int, $3) i"
    tenants: tuple[str, ...] = ("acme", "Acme", "umbrella")

    def __str__(self) -> str:
        return self.name

    @property
    def layout(self) -> Layout:
        return layout_of(
            "kinds",
            {
                "tables": [
                    {"table": "events", "events": True, "key": ["id"], "tenant": self.declared}
                ]
            },
        )


_AS_TEXT = (
    "insert into events (tenant, n) select ($1::text)::{}, i from generate_series($2::int, $3) i"
)
_IN_JSON = (
    "insert into events (data, n) select jsonb_build_object('tenant', $1::text), i"
    " from generate_series($2::int, $3) i"
)
_MADE = "tenant text generated always as (data ->> 'tenant') {}"

KINDS = [
    Kind("a domain", "tenant owner not null", "create domain owner as text check (value <> '')"),
    Kind("a domain over a domain", "tenant owner not null",
         "create domain name_of as varchar(20); create domain owner as name_of not null"),
    Kind("an enum", "tenant owner not null",
         "create type owner as enum ('Acme', 'acme', 'umbrella')", insert=_AS_TEXT.format("owner")),
    Kind("padded texts", "tenant char(12) not null"),
    Kind("numbers", "tenant int not null", insert=_AS_TEXT.format("int"), tenants=("7", "70", "0")),
    Kind("generated and stored", _MADE.format("stored"), insert=_IN_JSON),
    Kind("a key that is a domain", "tenant text not null", "create domain event_id as uuid",
         key="event_id"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_tenant_in_a_column_of_any_kind_moves_and_no_other_does(
    kind: Kind, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(f"{kind.both}; {TABLE.format(key=kind.key, tenant=kind.tenant)}")

    async with layout_world(kind.layout, make, dsns) as world:
        moving, *others = kind.tenants
        for tenant in kind.tenants:
            await world.source.execute(kind.insert, tenant, 1, 20)
        found = await world.coordinators[0].tenants("shared")
        assert sorted(str(each.tenant_id) for each in found) == sorted(kind.tenants)
        migration = await world.start(moving)
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        for tenant in kind.tenants:
            await world.source.execute(kind.insert, tenant, 21, 30)
        await world.source.execute("update events set n = -n where n = 5")
        with pytest.raises(asyncpg.PostgresError) as refused:
            await world.source.execute("truncate events")
        assert refused.value.sqlstate == "EVF02"
        done = await world.coordinators[0].initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        mine = f"tenant::text = '{moving}'"
        here = await rows(world.source, "events", mine)
        assert await rows(world.target, "events", "true") == here
        assert len(here) == 30
        with pytest.raises(asyncpg.PostgresError) as refused:
            await world.source.execute(kind.insert, moving, 31, 31)
        assert refused.value.sqlstate == "EVF01"
        for tenant in others:
            await world.source.execute(kind.insert, tenant, 31, 31)
        await world.target.execute(kind.insert, moving, 31, 31)


@pytest.mark.parametrize(
    ("kind", "tenant", "known"),
    [("uuid", "A0000000-0000-4000-8000-00000000000B", "a0000000-0000-4000-8000-00000000000b"),
     ("int", "007", "7"), ("char(9)", "acme  ", "acme"), ("int", "x", None)],
)  # fmt: skip
async def test_a_tenant_in_another_spelling_is_refused(
    kind: str, tenant: str, known: str | None, dsns: dict[str, str]
) -> None:
    """Its rows would not be found, and the move would be one of nothing."""

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(TABLE.format(key="uuid", tenant=f"tenant {kind} not null"))

    async with layout_world(Kind("", "").layout, make, dsns) as world:
        with pytest.raises(PreflightError) as refused:
            await world.start(tenant)
        told = f"would have {known!r} for it" if known else "'x' is no id of a tenant"
        assert told in str(refused.value)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ("tenant", "tenant = { expression = \"(data ->> 'tenant'::text)\" }"),
        ({"expression": "lower(tenant)"}, "write what it is made of: (data ->> 'tenant'::text)"),
    ],
    ids=["the column", "an expression"],
)
async def test_a_tenant_in_a_virtual_column_is_refused(
    declared: Any, says: str, dsns: dict[str, str]
) -> None:
    """No trigger sees what is made when it is read: nothing would be written down."""

    async def make(connection: asyncpg.Connection) -> None:
        # A server of version 16 has none.
        kind = "virtual" if connection.get_server_version().major >= 18 else "stored"
        await connection.execute(TABLE.format(key="uuid", tenant=_MADE.format(kind)))

    kind = Kind("virtual", _MADE.format("virtual"), declared=declared, insert=_IN_JSON)
    elsewhere = dsns | {"source": dsns["target"], "target": dsns["source"]}
    async with layout_world(kind.layout, make, elsewhere) as world:
        await world.source.execute(kind.insert, "acme", 1, 20)
        with pytest.raises(PreflightError) as refused:
            await world.start("acme")
        assert says in str(refused.value)
