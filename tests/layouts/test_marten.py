"""A tenant of Marten moves live: streams, events, archived or not, and everybody else stays."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.migration.repositories import PostgreSQLRoutingRepository
from tests.support import marten
from tests.support.fingerprint import fingerprint
from tests.support.waiting import until
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, rows

HOSTILE = [
    "acme",
    "o'brien",
    "a $guard$ ; drop table mt_events; select $guard$",
    "%1$I %s {on} {0}",
    'two\nlines "quoted" \\ backslash',
    "*DEFAULT*",
    "aaaaaaaa-0000-4000-8000-00000000000a",
    "AAAAAAAA-0000-4000-8000-00000000000A",
]


async def tables_of(world: LayoutWorld, tenant: str) -> dict[str, tuple[list[str], list[str]]]:
    """The tenant's rows on both sides, by table; numbers at the target are the source's here."""
    return {
        table: (
            await rows(world.source, table, "tenant_id = $1", tenant),
            await rows(world.target, table, "tenant_id = $1", tenant),
        )
        for table in ("mt_streams", "mt_events")
    }


async def seed(world: LayoutWorld, tenants: list[str], streams: int = 20) -> None:
    for tenant in tenants:
        for _ in range(streams):
            await marten.append(world.source, tenant, uuid4(), 3)


async def test_a_tenant_moves_while_it_writes(shop: LayoutWorld) -> None:
    tenants = ["acme", "umbrella"]
    await seed(shop, tenants)
    before = {t: await rows(shop.source, t, "tenant_id = 'umbrella'") for t in ("mt_events",)}
    async with marten.Writers(shop.dsns["source"], tenants) as writers:
        await asyncio.sleep(0.3)
        moved = await shop.move("acme")
        await asyncio.sleep(0.3)
    assert moved.state is MigrationState.MIGRATED
    assert writers.errors == []
    assert writers.sent_on == {"acme": ["EVF01"] * 3, "umbrella": []}
    compared = await tables_of(shop, "acme")
    for table, (here, there) in compared.items():
        assert there == here, table
    held = {row["id"] for row in await shop.target.fetch("select id from mt_events")}
    assert set(writers.acknowledged["acme"]) <= held
    assert (
        await shop.target.fetchval("select count(*) from mt_streams where tenant_id <> 'acme'") == 0
    )
    now = await rows(shop.source, "mt_events", "tenant_id = 'umbrella'")
    assert set(before["mt_events"]) <= set(now)


async def test_after_the_move_the_library_goes_on_at_the_target(shop: LayoutWorld) -> None:
    await seed(shop, ["acme"])
    head = await shop.source.fetchval("select max(seq_id) from mt_events")
    await shop.move("acme")
    stream = await shop.target.fetchval("select id from mt_streams limit 1")
    await marten.append(shop.target, "acme", stream)
    assert await shop.target.fetchval("select max(seq_id) from mt_events") > head
    mark = await shop.target.fetchval("select last_seq_id from mt_event_progression")
    assert mark == head
    with pytest.raises(asyncpg.PostgresError) as refused:
        await marten.append(shop.source, "acme", stream)
    assert refused.value.sqlstate == "EVF01"
    assert f'"target_store_id" : "{TARGET}"' in (refused.value.detail or "")
    route = await shop.router.route("acme")
    assert route.store_id == TARGET
    await marten.append(shop.source, "umbrella", uuid4())


async def test_two_tenants_change_places(shop: LayoutWorld) -> None:
    """One after the other: each needs numbers that the other one would take."""
    await seed(shop, ["acme"])
    for _ in range(20):
        await marten.append(shop.target, "zeta", uuid4(), 3)
    await PostgreSQLRoutingRepository(shop.pools[2]).set_routing("zeta", TARGET)
    leaving = await shop.start("acme")
    await shop.reaches(leaving, MigrationState.DUAL_WRITE)
    another = await shop.process()
    back = await another.start_migration(
        "zeta", shop.stores[TARGET], shop.stores[SOURCE], TARGET, SOURCE
    )

    async def waits() -> bool:
        found = await another.get_migration(back.id)
        return str(leaving.id) in (found.error_message or "")

    await until(waits, "the arrival to wait for the departure")
    await marten.append(shop.source, "acme", uuid4(), 3)
    await shop.coordinators[0].initiate_cutover(leaving.id)
    await shop.reaches(back, MigrationState.DUAL_WRITE)
    await marten.append(shop.target, "zeta", uuid4(), 3)
    moved = await another.initiate_cutover(back.id)
    assert moved.state is MigrationState.MIGRATED
    for tenant, connection in (("acme", shop.target), ("zeta", shop.source)):
        held = await connection.fetch("select id from mt_events where tenant_id = $1", tenant)
        assert len({row["id"] for row in held}) == 63


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=() if number in (1, 2, 4) else pytest.mark.infra)
        for number in range(len(HOSTILE))
    ],
)
async def test_a_tenant_of_any_name_moves_and_no_other_does(shop: LayoutWorld, number: int) -> None:
    tenant = HOSTILE[number]
    await seed(shop, HOSTILE, streams=2)
    await shop.move(tenant)
    for table, (here, there) in (await tables_of(shop, tenant)).items():
        assert here == there, table
        assert len(here) > 0
        assert await shop.target.fetchval(f"select count(*) from {table}") == len(here)
    for other in HOSTILE:
        if other != tenant:
            await marten.append(shop.source, other, uuid4())


async def test_an_abort_leaves_everything_as_it_was(shop: LayoutWorld) -> None:
    await seed(shop, ["acme", "umbrella"])
    before = [await fingerprint(each, journal=False) for each in (shop.source, shop.target)]
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    aborted = await shop.coordinators[0].abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    after = [await fingerprint(each, journal=False) for each in (shop.source, shop.target)]
    assert after == before
    await shop.move("acme")
    for table, (here, there) in (await tables_of(shop, "acme")).items():
        assert here == there, table
