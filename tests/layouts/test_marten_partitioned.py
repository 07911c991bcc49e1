"""Marten with a partition and a sequence for each tenant: numbers are unique within one only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.presets import presets
from tests.support import marten
from tests.support.fingerprint import fingerprint
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

#: The tenants, with the suffix that Marten gives them.
TENANTS = {"acme": "acme", "o'brien {last_position}": "o_brien", "umbrella": "umbrella"}

_CHANGES = (
    ("primary key (tenant_id, id)\n);",
     "primary key (tenant_id, id)\n) partition by list (tenant_id);"),
    ("primary key (seq_id),", "primary key (seq_id, tenant_id)"),
    ("    constraint fkey_mt_events_stream foreign key (tenant_id, stream_id)\n"
     "        references {s}.mt_streams (tenant_id, id) on delete cascade\n);",
     ") partition by list (tenant_id);"),
    ("    return_value int[];\nbegin\n", "    return_value int[];\n    numbers text;\nbegin\n"
     "    select 'mt_events_sequence_' || partition_suffix into numbers\n"
     "        from mt_tenant_partitions where partition_value = tenantid;\n"),
    ("nextval('{s}.mt_events_sequence')", "nextval(numbers)"),
)  # fmt: skip


def _tables() -> str:
    text = marten.TABLES
    for old, new in _CHANGES:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text.replace("{s}", "public") + (
        "create table mt_tenant_partitions (partition_value varchar primary key,"
        " partition_suffix varchar not null)"
    )


async def register(connection: asyncpg.Connection, tenant: str, suffix: str) -> None:
    """As Marten does for a new tenant."""
    await connection.execute("insert into mt_tenant_partitions values ($1, $2)", tenant, suffix)
    name = tenant.replace("'", "''")
    for table in ("mt_streams", "mt_events"):
        await connection.execute(
            f"create table {table}_{suffix} partition of {table} for values in ('{name}')"
        )
    await connection.execute(f"create sequence mt_events_sequence_{suffix}")


async def make(connection: asyncpg.Connection) -> None:
    await connection.execute(_tables())
    for tenant, suffix in TENANTS.items():
        await register(connection, tenant, suffix)


@pytest.fixture
async def shop(
    request: pytest.FixtureRequest, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """Each tenant has events with the numbers from 1 on; umbrella has some at the target too."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    layout: Layout = getattr(request, "param", presets()["marten-partitioned"])
    async with layout_world(layout, make, dsns) as world:
        for number, tenant in enumerate(TENANTS, 5):
            for _ in range(number):
                await marten.append(world.source, tenant, uuid4(), 3)
        await marten.append(world.target, "umbrella", uuid4(), 7)
        yield world


async def test_a_tenant_moves_with_its_numbers(shop: LayoutWorld) -> None:
    others = await rows(shop.target, "mt_events", "tenant_id = 'umbrella'")
    async with marten.Writers(shop.dsns["source"], ["acme", "umbrella"]) as writers:
        await asyncio.sleep(0.3)
        moved = await shop.move("acme")
        await asyncio.sleep(0.3)
    assert moved.state is MigrationState.MIGRATED
    assert writers.errors == []
    for table in ("mt_streams", "mt_events"):
        here, there = [
            await rows(each, table, "tenant_id = 'acme'") for each in (shop.source, shop.target)
        ]
        assert here == there
    assert await rows(shop.target, "mt_events", "tenant_id = 'umbrella'") == others
    head = await shop.source.fetchval("select last_value from mt_events_sequence_acme")
    await marten.append(shop.target, "acme", uuid4())
    last = "select max(seq_id) from mt_events where tenant_id = 'acme'"
    assert await shop.target.fetchval(last) > head
    # Nobody else's numbers or marks have changed.
    await marten.append(shop.target, "umbrella", uuid4())
    assert await shop.target.fetchval("select last_value from mt_events_sequence_umbrella") == 8
    marks = await shop.target.fetch("select name, last_seq_id from mt_event_progression")
    assert [tuple(row) for row in marks] == [("HighWaterMark:acme", head)]


async def test_a_name_is_a_value_in_the_statements_of_a_layout(shop: LayoutWorld) -> None:
    tenant = "o'brien {last_position}"
    head = await shop.source.fetchval("select last_value from mt_events_sequence_o_brien")
    await shop.move(tenant)
    marks = await shop.target.fetch("select name, last_seq_id from mt_event_progression")
    assert [tuple(row) for row in marks] == [(f"HighWaterMark:{tenant}", head)]


async def test_an_abort_gives_the_numbers_back(shop: LayoutWorld) -> None:
    before = [await fingerprint(each, journal=False) for each in (shop.source, shop.target)]
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    assert await shop.target.fetchval("select is_called from mt_events_sequence_acme")
    await shop.coordinators[0].abort_migration(migration.id)
    after = [await fingerprint(each, journal=False) for each in (shop.source, shop.target)]
    assert after == before


async def test_a_tenant_that_the_library_does_not_know_there_is_refused(shop: LayoutWorld) -> None:
    await register(shop.source, "late", "late")
    await marten.append(shop.source, "late", uuid4())
    with pytest.raises(PreflightError, match="register the tenant there with the library first"):
        await shop.start("late")


def _one_sequence() -> Layout:
    """What a careless operator may declare."""
    layout = presets()["marten-partitioned"]
    [streams, events] = layout.tables
    [wrong] = presets()["marten"].main.numbered
    return replace(layout, tables=(streams, replace(events, numbered=(wrong,))))


@pytest.mark.parametrize(
    ("shop", "complaint"),
    [
        pytest.param(presets()["marten"], "unique within a tenant only", id="marten"),
        pytest.param(_one_sequence(), "come from another sequence", id="one sequence"),
    ],
    indirect=["shop"],
)
async def test_a_layout_with_one_sequence_is_refused(shop: LayoutWorld, complaint: str) -> None:
    with pytest.raises(PreflightError, match=complaint):
        await shop.start("acme")
