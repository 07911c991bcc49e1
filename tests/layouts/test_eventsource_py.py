"""Tenants of eventsource-py: the library itself writes and reads, and knows nothing of a move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.layouts.presets import presets
from tests.layouts.libraries import Program, environment
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

PROGRAM = "eventsource_py_program.py"


@pytest.fixture(scope="session")
def python() -> Path:
    return environment("eventsource-py-0.8.1", "eventsource-py[postgresql]==0.8.1", "greenlet")


@pytest.fixture
async def orders(
    dsns: dict[str, str], python: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    for side in ("source", "target"):
        await asyncio.to_thread(Program(python, PROGRAM, "make", dsns[side]).finish)

    async def made(_: asyncpg.Connection) -> None:
        return

    async with layout_world(presets()["eventsource-py"], made, dsns) as world:
        yield world


async def test_a_tenant_moves_under_the_librarys_own_writers_and_is_read_by_it(
    orders: LayoutWorld, dsns: dict[str, str], python: Path
) -> None:
    tenant, other = str(uuid4()), str(uuid4())
    # The source has used up far more transaction ids than the target: they mean nothing there.
    await orders.source.execute(
        "do $$ begin for i in 1..3000 loop perform pg_current_xact_id(); commit; end loop; end $$"
    )
    writers = [
        Program(python, PROGRAM, "write", dsns["source"], json.dumps([tenant, other]), "4")
        for _ in range(2)
    ]
    await asyncio.sleep(3)
    moved = await orders.move(tenant)
    await asyncio.sleep(0.5)
    said = [line for each in writers for line in await asyncio.to_thread(each.finish)]
    assert moved.state is MigrationState.MIGRATED
    refused = [(line["tenant"], line["refused"]) for line in said if "refused" in line]
    assert refused == [(tenant, "EVF01")] * 8
    stored = {
        event for line in said if line.get("tenant") == tenant for event in line.get("stored", ())
    }
    assert len(stored) > 100
    names = "to_jsonb(t) - 'txid'"
    query = f"select ({names})::text from events t where tenant_id = $1 order by 1"
    here, there = [
        [row[0] for row in await each.fetch(query, moved.tenant_id)]
        for each in (orders.source, orders.target)
    ]
    assert here == there
    [read] = await asyncio.to_thread(Program(python, PROGRAM, "read", dsns["target"]).finish)
    order = await orders.source.fetch(
        "select event_id::text from events where tenant_id = $1 order by global_position",
        moved.tenant_id,
    )
    assert read["read"] == [row[0] for row in order]
    assert stored <= set(read["read"])
    assert await rows(orders.target, "events", "tenant_id <> $1", moved.tenant_id) == []
