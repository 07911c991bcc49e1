"""An empty target is loaded without the indexes that a load does not need, and gets them back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventsource.failpoints import ARMED_VARIABLE
from eventsource.migration import MigrationState, background, configuration
from eventsource.migration.driver import counting
from eventsource.migration.journaled import first_pass
from eventsource.migration.journaled.way import LayoutTables
from eventsource.migration.layouts.presets import presets
from eventsource.migration.models import Migration
from eventsource.migration.protocol import LOADED
from eventsource.migration.tables import deferred_indexes
from tests.support import REPOSITORY, earlier, others
from tests.support.fingerprint import fingerprint
from tests.support.reading_writer import reads_then_writes
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world

TABLE = "message_store.messages"

#: Slow enough to be looked at on the way.
SLOW: dict[str, Any] = {"max_events_per_second": 100.0, "batch_size": 10}


async def _make(connection: asyncpg.Connection) -> None:
    await connection.execute(others.MESSAGE_DB_INDEXED)


@pytest.fixture
async def messages(
    request: pytest.FixtureRequest, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """message-db with further indexes, 80 messages of each tenant; ten are worth a load."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", 10)
    monkeypatch.setattr(configuration, "BATCHES_PER_CHUNK", 1)
    settings = getattr(request, "param", {})
    async with layout_world(presets()["message-db"], _make, dsns, **settings) as world:
        for number in range(80):
            for tenant in ("acme", "umbrella"):
                await others.to_message_db(world.source, tenant, f"s{number % 4}")
        yield world


async def indexes(world: LayoutWorld) -> set[str]:
    return {
        row["relname"]
        for row in await world.target.fetch(
            "select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid"
            " where i.indrelid = $1::text::regclass",
            TABLE,
        )
    }


async def catalog(world: LayoutWorld) -> list[str]:
    """Indexes, constraints and triggers of the target."""
    lines: list[str] = (await fingerprint(world.target))["catalog"]
    return [line for line in lines if line.startswith(("index ", "constraint ", "trigger "))]


async def is_deferred(world: LayoutWorld) -> bool:
    return bool(
        await world.target.fetchval(
            "select exists (select from message_store.eventsource_copy_progress"
            " where deferred_indexes is not null)"
        )
    )


async def same(world: LayoutWorld, tenant: str = "acme") -> bool:
    """Row by row in their order; a start that died has kept numbers free."""
    here, there = [
        await each.fetch(
            f"select (to_jsonb(t) - 'global_position')::text from {TABLE} t"
            " where stream_name like $1 || ':%' order by global_position",
            tenant,
        )
        for each in (world.source, world.target)
    ]
    return [row[0] for row in here] == [row[0] for row in there]


async def loads(world: LayoutWorld, tenant: str = "acme") -> Migration:
    """One that has begun to load."""
    migration = await world.start(tenant)
    await until(
        lambda: world.target.fetchval(f"select exists (select from {TABLE})"), "the first chunk"
    )
    assert await is_deferred(world)
    return migration


@pytest.mark.parametrize("messages", [SLOW], indirect=True)
async def test_others_wait_until_the_indexes_are_back(messages: LayoutWorld) -> None:
    before = await catalog(messages)
    migration = await loads(messages)
    assert await indexes(messages) == {"messages_pkey"}
    assert (await messages.coordinators[0].get_migration(migration.id)).protocol == LOADED
    with pytest.raises(asyncpg.PostgresError) as refused:
        await others.to_message_db(messages.target, "initech", "s1")
    assert refused.value.sqlstate == "EVF03"
    await messages.reaches(migration, MigrationState.DUAL_WRITE)
    guards = [line for line in await catalog(messages) if "zzz_eventsource" not in line]
    assert guards == before
    await others.to_message_db(messages.target, "initech", "s1")
    await others.to_message_db(messages.source, "acme", "s1")
    done = await messages.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert await same(messages)
    await others.to_message_db(messages.target, "acme", "s1")


@pytest.mark.parametrize("messages", [SLOW], indirect=True)
@pytest.mark.parametrize("state", [MigrationState.BULK_COPY, MigrationState.DUAL_WRITE])
async def test_an_abort_leaves_the_catalog_as_it_was(
    messages: LayoutWorld, state: MigrationState
) -> None:
    before = [await fingerprint(each, journal=False) for each in (messages.source, messages.target)]
    migration = await loads(messages)
    await messages.reaches(migration, state)
    await messages.coordinators[0].abort_migration(migration.id)
    after = [await fingerprint(each, journal=False) for each in (messages.source, messages.target)]
    assert after == before
    await others.to_message_db(messages.target, "initech", "s1")


@pytest.mark.parametrize("messages", [SLOW], indirect=True)
@pytest.mark.parametrize("statement", ["disable trigger all", "enable trigger all", "drop trigger"])
async def test_the_trigger_that_holds_others_off_is_made_again(
    messages: LayoutWorld, statement: str
) -> None:
    coordinator = messages.coordinators[0]
    migration = await loads(messages)
    await coordinator.pause_migration(migration.id)
    if statement.startswith("drop"):
        loading = await messages.target.fetchval(
            "select tgname from pg_trigger where tgname like '%\\_loading'"
        )
        await messages.target.execute(f"drop trigger {loading} on {TABLE}")
    else:
        await messages.target.execute(f"alter table {TABLE} {statement}")
    await coordinator.resume_migration(migration.id)

    async def held() -> bool:
        return bool(
            await messages.target.fetchval(
                "select tgenabled = 'A' from pg_trigger where tgname like '%\\_loading'"
            )
        )

    await until(held, "the trigger to fire always")
    await coordinator.abort_migration(migration.id)


async def test_two_tenants_move_at_once_into_one_empty_table(messages: LayoutWorld) -> None:
    before = await catalog(messages)
    tenants = ["acme", "umbrella"]
    for migration in await asyncio.gather(*map(messages.start, tenants)):
        await messages.reaches(migration, MigrationState.DUAL_WRITE)
        await messages.coordinators[0].initiate_cutover(migration.id)
    for tenant in tenants:
        assert await same(messages, tenant)
    offset = await messages.control.fetchval("select max(position_offset) from tenant_migrations")
    assert offset > 0
    assert await messages.target.fetchval(f"select count(*) from {TABLE}") == 160
    assert await catalog(messages) == before


async def test_a_target_in_use_keeps_its_indexes(messages: LayoutWorld) -> None:
    await others.to_message_db(messages.target, "initech", "s1")
    seen: list[bool] = []
    read = first_pass._read

    async def looked(*args: Any) -> Any:
        seen.append(await is_deferred(messages))
        return await read(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_pass, "_read", looked)
        await messages.move("acme")
    assert seen
    assert not any(seen)
    assert await messages.target.fetchval(f"select count(*) from {TABLE}") == 81


async def test_a_writer_that_has_read_an_empty_target_is_not_deadlocked(
    messages: LayoutWorld,
) -> None:
    async def write(connection: asyncpg.Connection) -> None:
        await others.to_message_db(connection, "initech", "s1")

    async with reads_then_writes(messages.dsns["target"], TABLE, write):
        migration = await messages.start("acme")
        await messages.reaches(migration, MigrationState.DUAL_WRITE)


@pytest.mark.parametrize("messages", [SLOW], indirect=True)
async def test_a_large_tenant_is_counted_while_it_is_copied(
    messages: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "AT_ONCE", 50)
    count, may = LayoutTables.count, asyncio.Event()

    async def late(*args: Any) -> int | None:
        if len(args) == 3:
            await may.wait()
        return await count(*args)

    monkeypatch.setattr(LayoutTables, "count", late)
    await messages.source.execute(f"analyze {TABLE}")
    coordinator, migration = messages.coordinators[0], await loads(messages)
    begun = await coordinator.get_migration(migration.id)
    assert not begun.is_counted
    assert 0 < await coordinator.get_sync_lag(migration.id) <= 160
    may.set()

    async def known() -> bool:
        return (await coordinator.get_migration(migration.id)).total_events == 80

    await until(known, "the number of rows")
    done = await messages.reaches(migration, MigrationState.DUAL_WRITE)
    assert (done.total_events, done.progress_percentage) == (80, 100)


# A unique value that goes from one row to another while the rows are read.


async def _swap(world: LayoutWorld) -> None:
    """What was first in its stream gives its place to what was last of all."""
    [(first, last)] = await world.source.fetch(
        f"select min(global_position), max(global_position) from {TABLE}"
        " where stream_name like 'acme:%'"
    )
    async with world.source.transaction():
        await world.source.execute("set constraints all deferred")
        [(stream, position)] = await world.source.fetch(
            f"select stream_name, position from {TABLE} where global_position = $1", first
        )
        await world.source.execute(
            f"update {TABLE} set position = 1000 where global_position = $1", first
        )
        await world.source.execute(
            f"update {TABLE} set stream_name = $2, position = $3 where global_position = $1",
            last, stream, position,
        )  # fmt: skip


@pytest.mark.parametrize("messages", [{"batch_size": 10}], indirect=True)
@pytest.mark.parametrize("interrupted", [False, True])
async def test_rows_that_exchange_a_unique_value_begin_the_copy_again(
    messages: LayoutWorld, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    before = await catalog(messages)
    read, empty, chunks, emptied = first_pass._read, first_pass.empty, 0, 0

    async def looked(*args: Any) -> Any:
        nonlocal chunks
        chunks += 1
        if chunks == 3:
            await _swap(messages)
        return await read(*args)

    async def half(passes: Any) -> None:
        nonlocal emptied
        emptied += 1
        if interrupted and emptied == 1:
            # It dies half-way: what is twice is there once, and an index can be built.
            await passes.transfer.writing.execute(f"delete from {TABLE} where position = 0")
            raise ConnectionResetError
        await empty(passes)

    monkeypatch.setattr(first_pass, "_read", looked)
    monkeypatch.setattr(first_pass, "empty", half)
    migration = await messages.start("acme")
    await messages.reaches(migration, MigrationState.DUAL_WRITE)
    assert emptied >= 2
    done = await messages.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert await same(messages)
    assert await catalog(messages) == before


# A process that dies on the way.

MOMENTS = ["guard.target.reserved", "load.index.committed", "load.restored",
           "load.finished.committed"]  # fmt: skip


def _killed_at(failpoint: str, world: LayoutWorld) -> None:
    """A process moves the tenant and dies there."""
    killed = subprocess.run(
        [sys.executable, "-m", "tests.layouts.moving_process", json.dumps(world.dsns), "acme"],
        cwd=REPOSITORY, text=True, capture_output=True, timeout=60, check=False,
        env={**os.environ, ARMED_VARIABLE: f"{failpoint}=kill", "PRESET": "message-db",
             "WORTH_IT": "10"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr


@pytest.mark.parametrize("failpoint", MOMENTS)
@pytest.mark.parametrize("verb", ["move", "abort"])
async def test_another_process_ends_a_load(
    messages: LayoutWorld, failpoint: str, verb: str
) -> None:
    before = await catalog(messages)
    await asyncio.to_thread(_killed_at, failpoint, messages)
    coordinator = await messages.process(lease_seconds=1.0)
    [migration] = await coordinator.get_migrations_by_tenant("acme")
    if verb == "abort":
        await coordinator.abort_migration(migration.id)
        assert await messages.target.fetchval(f"select count(*) from {TABLE}") == 0
    else:
        await coordinator.initiate_cutover(migration.id)
        await messages.reaches(migration, MigrationState.MIGRATED)
        assert await same(messages)
    assert await catalog(messages) == before
    assert not await is_deferred(messages)
    await others.to_message_db(messages.target, "initech", "s1")


_EARLIER = """
import asyncio, json, sys
from eventsource.migration.errors import ProtocolVersionError
from eventsource.migration.layouts.presets import presets
from tests.support.worlds.layouts import connected

async def main(dsns):
    world = await connected(presets()["message-db"], dsns)
    coordinator = await world.process(lease_seconds=1.0)
    [migration] = await coordinator.get_migrations_by_tenant("acme")
    try:
        await asyncio.wait_for(coordinator.initiate_cutover(migration.id), 20)
        print("moved")
    except ProtocolVersionError as error:
        print("needs", error.needed)
    await world.close()

asyncio.run(main(json.loads(sys.argv[1])))
"""


async def test_an_earlier_version_leaves_a_load_alone(
    messages: LayoutWorld, tmp_path: Path
) -> None:
    """It would move the tenant over to tables without their indexes, which take no writes."""
    environment = earlier.environment_before("migration/journaled/loading.py", tmp_path)
    environment["PYTHONPATH"] += os.pathsep + str(REPOSITORY)
    await asyncio.to_thread(_killed_at, "load.index.committed", messages)
    asked = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _EARLIER, json.dumps(messages.dsns)],
        cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert asked.stdout.split() == ["needs", str(LOADED)], asked.stderr
    coordinator = await messages.process(lease_seconds=1.0)
    [migration] = await coordinator.get_migrations_by_tenant("acme")
    await coordinator.initiate_cutover(migration.id)
    await messages.reaches(migration, MigrationState.MIGRATED)
    assert await same(messages)
