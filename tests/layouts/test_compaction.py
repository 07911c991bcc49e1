"""A key that changes again and again is written down again and again, and kept a few times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.event_table import EventTable, of_store
from eventsource.migration.journaled import changes
from eventsource.migration.journaled.compaction import Compaction
from eventsource.migration.layouts.presets import presets
from eventsource.migration.tables import fences
from tests.support import marten
from tests.support.waiting import until
from tests.support.worlds.layouts import SOURCE, LayoutWorld, layout_world, rows

#: Keys that the smallest limit has room for.
ROOM = 64 * 1024 // changes.BYTES_OF_A_KEY


@pytest.fixture
async def slow(dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LayoutWorld]:
    """Marten's tables, the smallest journal, and a first pass of some seconds."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    async with layout_world(
        presets()["marten"], marten.make, dsns,
        journal_max_bytes=64 * 1024, batch_size=1, max_events_per_second=400.0,
    ) as world:  # fmt: skip
        for _ in range(40):
            await marten.append(world.source, "acme", uuid4(), 20)
        yield world


async def test_a_row_that_changes_all_the_time_does_not_fill_the_journal(slow: LayoutWorld) -> None:
    migration = await slow.start("acme")
    await slow.reaches(migration, MigrationState.BULK_COPY)
    stream = await slow.source.fetchval("select id from mt_streams limit 1")
    changed = 0
    while (await slow.coordinators[0].get_migration(migration.id)).state == "bulk_copy":
        await slow.source.execute(
            f"update mt_streams set version = version + 1 where id = '{stream}';" * 20
        )
        changed += 20
        # Some thousands a second: the smallest journal is full in less time than a pass rests for.
        await asyncio.sleep(0.005)
    assert changed > 2 * ROOM
    await slow.reaches(migration, MigrationState.DUAL_WRITE)
    await slow.coordinators[0].initiate_cutover(migration.id)
    # Only the pass after the first one would have noticed.
    audited = await slow.control.fetch("select event_type from migration_audit_log")
    assert "journal:overflowed" not in {row["event_type"] for row in audited}
    for table in ("mt_streams", "mt_events"):
        here, there = [
            await rows(each, table, "tenant_id = 'acme'") for each in (slow.source, slow.target)
        ]
        assert here == there


async def _written(world: LayoutWorld, fence_id: int) -> set[int]:
    found = await world.source.fetch(
        "select xid::text from eventsource_changes where fence_id = $1 and table_no >= 0", fence_id
    )
    return {int(row["xid"]) for row in found}


async def _change(connection: asyncpg.Connection, stream: object) -> int:
    """Change the stream's row; returns the transaction's id."""
    return int(
        await connection.fetchval(
            "update mt_streams set version = version + 1 where id = $1"
            " returning pg_current_xact_id()::text",
            stream,
        )
    )


async def test_a_change_that_a_pass_may_ask_for_stays(slow: LayoutWorld) -> None:
    """It began first and came last: its id is the lowest, and a snapshot shows the others alone."""
    migration = await slow.start("acme")
    await slow.reaches(migration, MigrationState.DUAL_WRITE)
    await slow.coordinators[0].pause_migration(migration.id)
    stream = await slow.source.fetchval("select id from mt_streams limit 1")
    there = await of_store(slow.stores[SOURCE])
    table = EventTable(slow.source, there.address, there.layout)
    fence = await fences.of_migration(table, migration.id, "source")
    assert fence is not None
    early = await asyncpg.connect(slow.dsns["source"])
    await early.execute("begin")
    lowest = int(await early.fetchval("select pg_current_xact_id()::text"))
    compaction = Compaction()
    before = await _change(slow.source, stream)
    await compaction.when_due(table, fence.fence_id, 0)
    after = await _change(slow.source, stream)
    snapshot = await slow.source.fetchval("select pg_current_snapshot()::text")
    assert await _change(early, stream) == lowest < before < after
    await early.execute("commit")
    await early.close()
    await compaction.when_due(table, fence.fence_id, 0)
    assert await _written(slow, fence.fence_id) == {lowest, after}
    found = await changes.read(slow.source, table, fence.fence_id, snapshot, 10)
    assert found is not None
    assert found.count == 1
    # Once all of them are in the past of another change, that one says it.
    last = await _change(slow.source, stream)
    await compaction.when_due(table, fence.fence_id, 0)
    assert await _written(slow, fence.fence_id) == {last}


async def test_what_a_pass_has_carried_goes_although_a_transaction_runs_for_days(
    slow: LayoutWorld,
) -> None:
    migration = await slow.start("acme")
    await slow.reaches(migration, MigrationState.DUAL_WRITE)
    old = await asyncpg.connect(slow.dsns["source"])
    await old.execute("begin; select pg_current_xact_id()")
    for _ in range(5):
        await marten.append(slow.source, "acme", uuid4(), 20)
        await asyncio.sleep(0.3)

    async def is_clean() -> bool:
        return not await slow.source.fetchval(
            "select count(*) from eventsource_changes where fence_id > 0 and table_no >= 0"
        )

    await until(is_clean, "the journal to be cleaned")
    await old.execute("commit")
    await old.close()
