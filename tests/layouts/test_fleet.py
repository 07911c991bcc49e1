"""Waves of tenants in tables of another library, whatever their names are."""

from __future__ import annotations

import asyncio
import csv
import io
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.connections import TableAddress
from eventsource.migration.event_table import EventTable
from eventsource.migration.journaled import tenants
from eventsource.migration.layouts.declaration import Tenancy
from eventsource.migration.layouts.presets import presets
from tests.layouts.test_command_line import Shop
from tests.support import marten
from tests.support.fleet_page import served
from tests.support.fleet_worker import FleetWorker

#: Tenants with the streams that each has, of three events; `WRITTEN` is written to as it moves.
LARGE, WRITTEN, THERE = "o'brien & sons\n$guard$", "umbrella", "zeta\n\x1b[31m --"
STREAMS = {
    LARGE: 9,
    WRITTEN: 6,
    "tenant, a/b?c#d%41 é": 4,
    "AAAAAAAA-0000-4000-8000-00000000000A": 3,
    "aaaaaaaa-0000-4000-8000-00000000000a": 2,
    THERE: 1,
}


async def prepared(dsns: dict[str, str]) -> None:
    """The library's tables; one tenant has rows in the target already."""
    for side in ("source", "target"):
        connection = await asyncpg.connect(dsns[side])
        await marten.make(connection)
        for tenant, streams in STREAMS.items():
            for _ in range(streams if side == "source" or tenant == THERE else 0):
                await marten.append(connection, tenant, uuid4(), 3)
        await connection.close()


async def events_of(dsn: str, tenant: str) -> set[tuple[object, ...]]:
    """Everything of them but their numbers, which are others at the target."""
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetch(
            "select to_jsonb(t) - 'seq_id' as event from mt_events t where tenant_id = $1"
            " union all select to_jsonb(t) from mt_streams t where tenant_id = $1",
            tenant,
        )
        return {tuple(row) for row in found}
    finally:
        await connection.close()


@pytest.mark.timeout(600)
async def test_a_wave_moves_tenants_of_any_name(dsns: dict[str, str], tmp_path: Path) -> None:
    await prepared(dsns)
    shop = Shop(dsns["source"], dsns["target"], dsns["control"], tmp_path)
    await asyncio.to_thread(_plan, shop)
    async with marten.Writers(dsns["source"], [WRITTEN]) as writers:
        await asyncio.to_thread(_carry, shop)
    assert writers.errors == []
    moved = [tenant for tenant in STREAMS if tenant != THERE]
    for tenant in moved:
        there = await events_of(dsns["target"], tenant)
        assert there == await events_of(dsns["source"], tenant), tenant
        assert len(there) >= 4 * STREAMS[tenant]
    target = await asyncpg.connect(dsns["target"])
    held = {row[0] for row in await target.fetch("select id from mt_events")}
    await target.close()
    assert set(writers.acknowledged[WRITTEN]) <= held
    assert len(await events_of(dsns["target"], THERE)) == 4
    await asyncio.to_thread(_look, shop, moved)


def _plan(shop: Shop) -> None:
    shop.write_config()
    shop("init")
    words = ("fleet", "plan", "night", "--to", "dedicated", "--replace")
    plan = shop.json(*words, "--largest", 2)
    assert plan["plan"]["events"] == 45
    assert _chosen(shop) == [LARGE, WRITTEN]
    query = "select tenant_id from mt_streams group by 1 order by count(*) limit 3"
    plan = shop.json(*words, "--query", query)
    assert plan["plan"]["events"] == 18
    assert _chosen(shop) == [*reversed(STREAMS)][:3]
    named = io.StringIO()
    csv.writer(named).writerows([[tenant] for tenant in STREAMS])
    path = shop.directory / "tenants.csv"
    path.write_text(named.getvalue())
    shown = shop(*words, "--file", path).output
    assert r"tenant zeta\n\x1b[31m -- would be refused" in shown
    plan = shop.json(*words, "--file", path)
    assert plan["plan"]["events"] == 3 * sum(STREAMS.values())
    assert plan["plan"]["bytes"] > 0
    assert list(plan["refused"]) == [THERE]
    assert plan["examined"] == len(STREAMS) - 1
    assert _chosen(shop) == list(STREAMS)


def _chosen(shop: Shop) -> list[str]:
    rows = shop.sql("control", "select tenant_id from migration_wave_items order by ordinal")
    return [row[0] for row in rows]


def _carry(shop: Shop) -> None:
    shop("fleet", "start", "night")
    with FleetWorker(shop.config, "worker", "--until-done") as worker:
        assert worker.wait(240) == 0, worker.output()
    assert "5 moved, 1 refused" in worker.output()


def _look(shop: Shop, moved: list[str]) -> None:
    """What is said of it: each name as it is, and no line is broken by one."""
    shown = shop("fleet", "status", "night").output
    assert r"zeta\n\x1b[31m --  refused" in shown
    rows = shop.json("fleet", "report", "night")["tenants"]
    assert [row["tenant_id"] for row in rows if row["outcome"] == "moved"] == moved
    assert all(row["proof"] for row in rows if row["outcome"] == "moved")
    written = shop("fleet", "report", "night", "--format", "csv").output
    read = csv.DictReader(io.StringIO(written, newline=""))
    assert [row["tenant_id"] for row in read] == list(STREAMS)
    with served(shop) as page:
        [wave] = page.json("/api/now")["waves"]
        assert wave["counts"] == {"moved": 5, "refused": 1}
        for tenant in moved:
            [migration] = page.json(f"/api/tenant?id={quote(tenant, safe='')}")["migrations"]
            assert migration["state"] == "migrated"
    shop.sql("target", "delete from mt_streams where tenant_id = $1", THERE)
    assert shop.json("fleet", "retry", "night", THERE)["tenants"] == 1


@pytest.mark.parametrize("tenancy", ["index", "no index", "varchar", "expression", "uuid"])
async def test_some_tenants_are_sized_as_all_are(source_dsn: str, tenancy: str) -> None:
    """Their number exactly, and their bytes by some of their rows."""
    named = [*STREAMS, str(UUID(int=7))]
    layout, type_ = presets()["marten"], "text"
    if tenancy == "expression":
        by = Tenancy(expression="tenant_id || ''")
        layout = replace(layout, tables=tuple(replace(t, tenancy=by) for t in layout.tables))
    connection = await asyncpg.connect(source_dsn)
    try:
        await marten.make(connection)
        await connection.execute("alter table mt_events drop constraint fkey_mt_events_stream")
        if tenancy == "uuid":
            named, type_ = [str(UUID(int=n)) for n in range(3)], "uuid"
            await connection.execute(
                "alter table mt_events alter tenant_id drop default,"
                " alter tenant_id type uuid using tenant_id::uuid"
            )
        elif tenancy == "no index":
            await connection.execute("drop index pk_mt_events_stream_and_version")
        elif tenancy == "varchar":
            await connection.execute("alter table mt_events alter tenant_id type varchar(99)")
        for number, tenant in enumerate(named, start=1):
            await connection.execute(
                "insert into mt_events (seq_id, id, stream_id, version, data, type, tenant_id)"
                " select nextval('mt_events_sequence'), gen_random_uuid(), gen_random_uuid(), n,"
                f" '{{}}', 'x', $1::text::{type_} from generate_series(1, $2::int) n",
                tenant, 5 * number,
            )  # fmt: skip
        table = EventTable(connection, TableAddress(source_dsn, "public", "mt_events"), layout)
        every = await tenants.sizes(table)
        assert sorted(each[1] for each in every) == [5 * n for n, _ in enumerate(named, start=1)]
        some = [tenant for tenant, _, _ in every[:2]]
        found = await tenants.sizes(table, [*some, uuid4(), "nobody"])
        assert [each[:2] for each in found] == [each[:2] for each in every[:2]]
        # The header of a row counts a little less there.
        assert [each[2] for each in found] == pytest.approx(
            [each[2] for each in every[:2]], rel=0.1
        )
        assert await tenants.present(table, [*some, uuid4(), "nobody"]) == set(some)
    finally:
        await connection.close()
