"""The bulk copy: on how many connections, and what it does with the target's indexes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.migration.tables import deferred_indexes
from tests.support.fingerprint import fingerprint
from tests.support.held_migration import SLOW, cursor
from tests.support.reading_writer import reads_then_writes
from tests.support.worlds.three_databases import World, insert, table


async def test_the_bulk_copy_has_no_more_connections_than_it_is_told(world: World) -> None:
    """It opens a further one for a chunk that finds none free."""
    await world.seed(200)
    connections = []
    for jobs in (1, 5):
        driver = await world.process(**SLOW, copy_jobs=jobs)
        migration = await driver.start(world.tenant)
        await cursor(world)
        connections.append(
            await world.target.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name like 'eventsource-migrate%'"
            )
        )
        await driver.coordinator.abort_migration(migration.id)
    assert connections[1] - connections[0] <= 4


async def test_a_writer_that_has_read_an_empty_target_is_not_deadlocked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its indexes are dropped, for which readers have to be gone too."""
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", 10)
    await world.seed(20)

    async def write(connection: asyncpg.Connection) -> None:
        await insert(connection, world.other, side="target")

    async with reads_then_writes(world.dsns["target"], table("target"), write):
        migration = await world.here.start(world.tenant)
        await world.reach(migration, "dual_write")


@pytest.mark.parametrize("deferred", [False, True], ids=["indexed", "deferred"])
async def test_two_tenants_move_at_once_into_one_empty_table(
    world: World, monkeypatch: pytest.MonkeyPatch, deferred: bool
) -> None:
    if deferred:
        monkeypatch.setattr(deferred_indexes, "WORTH_IT", 10)
    elsewhere = await world.process()
    tenants = [world.tenant, world.other]
    for _ in range(5):
        for tenant in tenants:
            await world.seed(20, tenant)
    before = await _indexes(world)
    started = await asyncio.gather(world.here.start(tenants[0]), elsewhere.start(tenants[1]))
    for migration in started:
        await world.reach(migration, "dual_write")
    for tenant in tenants:
        await world.seed(20, tenant)
        await elsewhere.append(tenant)
    done = await asyncio.gather(
        *(elsewhere.coordinator.initiate_cutover(migration.id) for migration in started)
    )
    for migration, tenant in zip(done, tenants, strict=True):
        assert migration.state is MigrationState.MIGRATED
        await world.assert_moved(migration, tenant)
        await elsewhere.append(tenant)
    blocks = await world.target.fetch(
        "select position_offset as low, last_target_position as high"
        " from eventsource_copy_progress order by 1"
    )
    assert blocks[0]["low"] == 0
    assert blocks[0]["high"] <= blocks[1]["low"]
    assert await _indexes(world) == before


async def _indexes(world: World) -> list[Any]:
    return [
        tuple(found)
        for found in await world.target.fetch(
            "select c.relname, pg_get_indexdef(i.indexrelid), k.conname"
            " from pg_index i join pg_class c on c.oid = i.indexrelid"
            " left join pg_constraint k on k.conindid = i.indexrelid"
            " where c.relnamespace = 'public'::regnamespace and i.indisvalid order by 1"
        )
    ]


@pytest.mark.parametrize("state", ["bulk_copy", "dual_write"])
async def test_an_abort_restores_the_indexes_that_a_load_did_without(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", 10)
    await world.seed(200)
    before = await world.fingerprint(journal=False)
    driver = await world.process(**SLOW)
    migration = await driver.start(world.tenant)
    await world.reach(migration, state)
    if state == "bulk_copy":
        await cursor(world)
        assert len(await _indexes(world)) < len(
            [line for line in before["target"]["catalog"] if line.startswith("index")]
        )
        with pytest.raises(asyncpg.PostgresError):
            await insert(world.target, world.other, side="target")
    await world.coordinator.abort_migration(migration.id)
    assert await world.fingerprint(journal=False) == before
    await insert(world.target, world.other, side="target")


#: What a definition does not say about an index; ``{t}`` is the target's table.
_KEPT = {
    "a tablespace": "create index ix on {t} (actor_id) tablespace elsewhere",
    "a constraint's tablespace": "alter table {t} add constraint ix unique (event_id, version)"
    " using index tablespace elsewhere",
    "a comment": "create index ix on {t} (actor_id); comment on index ix is 'for the reports'",
    "a constraint's comment": "alter table {t} add constraint ix unique (event_id, version);"
    " comment on constraint ix on {t} is 'asked for by accounting'",
    "statistics of an expression": "create index ix on {t} (lower(actor_id));"
    " alter index ix alter column 1 set statistics 500",
    "an extension that needs it": "create index ix on {t} (actor_id);"
    " alter index ix depends on extension plpgsql",
}


@pytest.mark.parametrize("kept", _KEPT)
async def test_an_index_that_would_not_come_back_as_it_was_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", 10)
    await _tablespace(world.target)
    database = await world.target.fetchval("select quote_ident(current_database())")
    try:
        await world.target.execute(_KEPT[kept].format(t=table("target")))
        # Nor does one that was left out come back somewhere else.
        await world.target.execute(f"alter database {database} set default_tablespace = elsewhere")
        await world.seed(40)
        before = await _everything(world)
        migration = await world.dual_write()
        await world.assert_moved(
            await world.coordinator.initiate_cutover(migration.id), world.tenant
        )
        assert await _everything(world) == before
    finally:
        await world.target.execute(f"alter database {database} reset default_tablespace")


async def _tablespace(connection: asyncpg.Connection[Any]) -> None:
    await connection.execute("set allow_in_place_tablespaces = on")
    with contextlib.suppress(asyncpg.DuplicateObjectError):
        await connection.execute("create tablespace elsewhere location ''")


async def _everything(world: World) -> list[str]:
    lines: list[str] = (await fingerprint(world.target))["catalog"]
    return [line for line in lines if line.startswith(("index public.", "constraint "))]
