"""What proves a move of a layout's tables, and what refuses where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import ConsistencyError, MigrationState, VerificationLevel, background
from eventsource.migration.journaled import comparison, first_pass, verification
from eventsource.migration.journaled.transfer import Rows, Transfer
from eventsource.migration.layouts.declaration import LayoutTable
from eventsource.migration.layouts.reading import layout_of
from tests.support import marten
from tests.support.waiting import until
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world, rows

ORDERS = layout_of(
    "orders",
    {
        "tables": [
            {"table": "orders", "key": ["id"], "tenant": "tenant", "written_by": "append"},
            {
                "table": "lines", "events": True, "key": ["id"],
                "tenant": {"through": "orders", "columns": ["order_id"], "referenced": ["id"]},
                "numbered": {"id": "own"},
            },
        ]
    },
)  # fmt: skip

TABLES = """
create table orders (id uuid primary key, tenant text not null, note text);
create table lines (
    id bigserial primary key, order_id uuid not null references orders on delete cascade, text text
);
"""


@pytest.fixture
async def orders(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """A layout of one's own: the tenant of a line is that of its order."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async with layout_world(ORDERS, TABLES, dsns) as world:
        await world.source.execute(
            "insert into orders select md5(t || i)::uuid, t, 'n' from unnest(array['acme', 'b']) t,"
            " generate_series(1, 20) i;"
            " insert into lines (order_id, text) select id, 'x' from orders, generate_series(1, 3)"
        )
        yield world


async def lines(connection: asyncpg.Connection, tenant: str) -> list[str]:
    where = f"order_id in (select id from orders where tenant = '{tenant}')"
    return await rows(connection, "lines", where)


@pytest.mark.parametrize("cascades", [True, False], ids=["cascade", "no action there"])
async def test_what_goes_with_its_parent_goes_at_the_target_too(
    orders: LayoutWorld, cascades: bool
) -> None:
    if not cascades:
        await orders.target.execute(
            "alter table lines drop constraint lines_order_id_fkey,"
            " add foreign key (order_id) references orders"
        )
    migration = await orders.start("acme")
    await orders.reaches(migration, MigrationState.DUAL_WRITE)
    ids = [row[0] for row in await orders.source.fetch("select id from orders where tenant = 'acme'"
                                                       " order by id")]  # fmt: skip
    await orders.source.execute("delete from orders where id = $1", ids[0])
    await orders.source.execute("update orders set tenant = 'b' where id = $1", ids[1])
    coming = await orders.source.fetchval(
        "select id from orders where tenant = 'b' and id <> $1 order by id limit 1", ids[1]
    )
    await orders.source.execute("update orders set tenant = 'acme' where id = $1", coming)
    take = "update lines set order_id = $1 where order_id = $2"
    await orders.source.execute(take, ids[2], ids[3])
    await orders.coordinators[0].initiate_cutover(migration.id)
    here = await rows(orders.source, "orders", "tenant = 'acme'")
    assert await rows(orders.target, "orders", "true") == here
    assert await rows(orders.target, "lines", "true") == await lines(orders.source, "acme")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await orders.source.execute("update lines set text = 'y' where order_id = $1", ids[2])
    assert refused.value.sqlstate == "EVF01"


async def tampered(world: LayoutWorld, migration: Any, statement: str) -> None:
    """Change a row at the target as nobody but the migration can."""
    await world.target.execute(f"set eventsource.migration = '{migration.id}'; {statement};"
                               " reset eventsource.migration")  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("update mt_events set data = '{}' where seq_id = 1", "column data"),
        ("delete from mt_events where seq_id = 2", "is not at the target"),
        ("update mt_streams set is_archived = true", "column is_archived"),
    ],
)
async def test_a_difference_is_found_before_the_fence_with_table_key_and_column(
    shop: LayoutWorld, statement: str, said: str
) -> None:
    for _ in range(3):
        await marten.append(shop.source, "acme", uuid4(), 3)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await tampered(shop, migration, statement)
    for level in (VerificationLevel.HASH, VerificationLevel.FULL):
        report = await verification.verify(shop.stores[SOURCE], shop.stores[TARGET], "acme", level)
        assert not report.is_consistent
        assert said in str(report.differences[0])
    with pytest.raises(ConsistencyError, match=said):
        await shop.coordinators[0].initiate_cutover(migration.id)
    await marten.append(shop.source, "acme", uuid4())


async def test_verification_finds_nothing_while_the_tenant_writes(shop: LayoutWorld) -> None:
    for _ in range(10):
        await marten.append(shop.source, "acme", uuid4(), 3)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    async with marten.Writers(shop.dsns["source"], ["acme"], each=4):
        for level in (VerificationLevel.COUNT, VerificationLevel.FULL, VerificationLevel.FULL):
            report = await verification.verify(
                shop.stores[SOURCE], shop.stores[TARGET], "acme", level
            )
            assert report.is_consistent, report.differences
            await asyncio.sleep(0.2)


async def test_what_a_pass_carries_during_a_comparison_is_no_difference(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two looks it has arrived, and the journal has forgotten it."""
    for _ in range(3):
        await marten.append(shop.source, "acme", uuid4(), 3)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    held, stream = comparison._Comparison._held, uuid4()
    meanwhile: list[str] = []

    async def slow(self: Any, table: LayoutTable, *place: Any) -> dict[bytes, bytes]:
        found = await held(self, table, *place)
        if not meanwhile:
            meanwhile.append(table.name)
            await marten.append(shop.source, "acme", stream, 2)
            await until(partial(_has_arrived, shop, stream), "the new events at the target")
            await until(partial(_journal_is_empty, shop), "an empty journal")
        return found

    monkeypatch.setattr(comparison._Comparison, "_held", slow)
    stores = shop.stores[SOURCE], shop.stores[TARGET]
    report = await verification.verify(*stores, "acme", VerificationLevel.FULL)
    assert meanwhile
    assert report.is_consistent, report.differences
    # What is missing is missed all the same.
    meanwhile.clear()
    await shop.target.execute(
        "select set_config('eventsource.migration', $1, false)", str(migration.id)
    )
    await shop.target.execute("delete from mt_events where stream_id = $1", stream)
    stream = uuid4()
    report = await verification.verify(*stores, "acme", VerificationLevel.FULL)
    assert [each.detail for each in report.differences] == ["is not at the target"] * 2


async def test_what_is_written_after_the_move_during_a_comparison_is_no_difference(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written since is asked for range by range, after the range was read."""
    for _ in range(4):
        await marten.append(shop.source, "acme", uuid4(), 3)
    await shop.move("acme")
    held = comparison._Comparison._held
    read: list[str] = []

    async def slow(self: Any, table: LayoutTable, *place: Any) -> dict[bytes, bytes]:
        read.append(table.name)
        if table.name == "mt_events":
            await shop.target.execute(
                "update mt_events set data = jsonb_build_object('read', $1::integer)"
                " where seq_id = (select max(seq_id) from mt_events where tenant_id = 'acme')",
                len(read),
            )
        return await held(self, table, *place)

    monkeypatch.setattr(comparison._Comparison, "_held", slow)
    monkeypatch.setattr(comparison, "RANGE_ROWS", 5)
    stores = shop.stores[SOURCE], shop.stores[TARGET]
    report = await verification.verify(*stores, "acme", VerificationLevel.FULL)
    assert read.count("mt_events") == 3
    assert report.is_consistent, report.differences


async def _has_arrived(shop: LayoutWorld, stream: UUID) -> bool:
    return len(await rows(shop.target, "mt_events", "stream_id = $1", stream)) == 2


async def _journal_is_empty(shop: LayoutWorld) -> bool:
    return not await shop.source.fetchval(
        "select count(*) from eventsource_changes where fence_id > 0 and table_no >= 0"
    )


async def test_a_chunk_is_committed_only_after_a_barrier_that_came_after_its_read(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the source takes back what was committed asynchronously and read meanwhile."""
    for _ in range(5):
        await marten.append(shop.source, "acme", uuid4(), 3)
    order: list[bool] = []
    reads: list[Any] = []
    read, prove = Transfer.read, first_pass._prove

    async def noted(self: Transfer, table: LayoutTable, query: str) -> Rows:
        found = await read(self, table, query)
        reads.append(await shop.source.fetchval("select clock_timestamp()"))
        return found

    async def proven(*arguments: Any) -> None:
        barrier = await shop.source.fetchval("select max(passed_at) from eventsource_witnesses")
        order.append(barrier > reads[-1])
        await prove(*arguments)

    monkeypatch.setattr(Transfer, "read", noted)
    monkeypatch.setattr(first_pass, "_prove", proven)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    assert order
    assert all(order)
