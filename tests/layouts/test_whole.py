"""A schema for each tenant: all of its tables move, whatever library made them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts import deriving
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.reading import layout_of
from tests.layouts.libraries import Program, environment
from tests.support import REPOSITORY
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

SCHEMA = "tenant a"

#: The library takes no name that has to be quoted.
OTHERS = "tenant_a"

#: Streams that change with each append, a counter for all of them, links by reference, a reader.
TABLES = f"""
create schema "{SCHEMA}";
set search_path = "{SCHEMA}";
create table streams (id bigserial primary key, name text not null unique,
                      version bigint not null default 0);
create table events (id uuid primary key, kind text, data jsonb, at timestamptz default now());
create table stream_events (event_id uuid references events, stream_id bigint references streams,
                            version bigint not null, primary key (event_id, stream_id),
                            unique (stream_id, version));
create table subscriptions (id bigint generated always as identity primary key,
                            name text not null, seen bigint not null default 0);
create sequence tickets increment by 10;
create table notes (text text);
reset search_path;
"""

APPEND = f"""
with own as (
    insert into "{SCHEMA}".streams (name, version) values ($1, 1)
    on conflict (name) do update set version = streams.version + 1 returning id, version
), whole as (
    update "{SCHEMA}".streams set version = version + 1 where name = '$all' returning id, version
), added as (
    insert into "{SCHEMA}".events (id, kind, data) values (gen_random_uuid(), 'Added', $2)
    returning id
)
insert into "{SCHEMA}".stream_events (event_id, stream_id, version)
select added.id, target.id, target.version from added, (table own union all table whole) target
returning event_id
"""


DECLARED = """
[layouts.orders]
tenant = "whole"
stays = { notes = "nobody reads them" }
tables = [
    { table = "streams", key = ["id"] },
    { table = "events", key = ["id"], events = true },
    { table = "stream_events", key = ["event_id", "stream_id"] },
    { table = "subscriptions", key = ["id"] },
]
"""


def read(text: str) -> Layout:
    return layout_of("orders", tomllib.loads(text)["layouts"]["orders"])


async def derived(connection: asyncpg.Connection, schema: str = SCHEMA) -> Layout:
    return read(await deriving.declaration(connection, schema, "orders"))


@pytest.fixture
async def world(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    for side in ("source", "target"):
        connection = await asyncpg.connect(dsns[side])
        await connection.execute(TABLES)
        if side == "source":
            await connection.execute(f"insert into \"{SCHEMA}\".streams (name) values ('$all')")
        await connection.close()

    async def made(_: asyncpg.Connection) -> None:
        return

    async with layout_world(read(DECLARED), made, dsns, schema=SCHEMA) as opened:
        yield opened


async def appended(world: LayoutWorld, side: str, stream: str, events: int = 1) -> list[Any]:
    connection = await asyncpg.connect(world.dsns[side])
    try:
        return [await connection.fetchval(APPEND, stream, "{}") for _ in range(events)]
    finally:
        await connection.close()


async def everything(connection: asyncpg.Connection) -> dict[str, list[str]]:
    tables = ("streams", "events", "stream_events", "subscriptions")
    return {name: await rows(connection, f'"{SCHEMA}".{name}', "true") for name in tables}


class Appending:
    """Writers of the tenant, until the tenant is sent on."""

    def __init__(self, world: LayoutWorld, tasks: int = 6) -> None:
        self.acknowledged: list[object] = []
        self.refused: list[str] = []
        self._world = world
        self._tasks = [asyncio.create_task(self._append(number)) for number in range(tasks)]

    async def _append(self, number: int) -> None:
        connection = await asyncpg.connect(self._world.dsns["source"])
        try:
            while True:
                try:
                    found = await connection.fetchval(APPEND, f"stream-{number}", '{"n": 1}')
                except asyncpg.PostgresError as error:
                    self.refused.append(str(error.sqlstate))
                    return
                self.acknowledged.append(found)
                await asyncio.sleep(0.01)
        finally:
            await connection.close()

    async def wait(self) -> None:
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_schema_moves_under_writers_with_its_counters_and_its_numbers(
    world: LayoutWorld,
) -> None:
    await appended(world, "source", "old", 30)
    await world.source.execute(
        f"insert into \"{SCHEMA}\".subscriptions (name, seen) values ('billing', 12);"
        f"select nextval('\"{SCHEMA}\".tickets'), nextval('\"{SCHEMA}\".tickets')"
    )
    writers = Appending(world)
    moved = await world.move("tenant-a")
    await writers.wait()
    assert moved.state is MigrationState.MIGRATED
    assert set(writers.refused) == {"EVF01"}
    there = await everything(world.target)
    assert there == await everything(world.source)
    assert len(writers.acknowledged) > 20
    for event in writers.acknowledged:
        assert any(str(event) in row for row in there["events"])
    # Each number once: streams, subscriptions, and what no column has as its default.
    [event] = await appended(world, "target", "new")
    assert event is not None
    taken = await world.target.fetchrow(
        f'select max(id) as highest, count(distinct id) = count(*) as one from "{SCHEMA}".streams'
    )
    assert taken is not None
    assert taken["one"]
    assert taken["highest"] > await world.source.fetchval(f'select max(id) from "{SCHEMA}".streams')
    assert await world.target.fetchval(f"select nextval('\"{SCHEMA}\".tickets')") == 21
    added = await world.target.fetchval(
        f"insert into \"{SCHEMA}\".subscriptions (name) values ('search') returning id"
    )
    assert added == 2


async def test_an_abort_leaves_nothing_at_the_target(world: LayoutWorld) -> None:
    await appended(world, "source", "old", 10)
    sequences = (
        "select schemaname, sequencename, last_value from pg_sequences"
        " where sequencename not like 'eventsource%' order by 1, 2"
    )
    before = await world.target.fetch(sequences)
    migration = await world.start("tenant-a")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    await world.coordinators[0].abort_migration(migration.id)
    assert await world.target.fetch(sequences) == before
    assert not any((await everything(world.target)).values())
    await appended(world, "source", "old", 5)
    assert (await world.move("tenant-a")).state is MigrationState.MIGRATED
    assert await everything(world.target) == await everything(world.source)


async def refused(world: LayoutWorld, tenant: str = "tenant-a") -> str:
    with pytest.raises(PreflightError) as caught:
        await world.start(tenant)
    return str(caught.value)


async def test_a_table_that_nobody_declared_refuses_the_start(world: LayoutWorld) -> None:
    await world.source.execute(f'create table "{SCHEMA}".parcels (id int primary key)')
    assert 'does not declare table "tenant a"."parcels"' in await refused(world)


async def test_a_table_that_comes_while_the_tenant_moves_puts_the_cutover_off(
    world: LayoutWorld,
) -> None:
    await appended(world, "source", "old", 10)
    migration = await world.start("tenant-a")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    await world.source.execute(f'create table "{SCHEMA}".parcels (id int primary key)')
    with pytest.raises(PreflightError, match="parcels"):
        await world.coordinators[0].initiate_cutover(migration.id)
    await world.source.execute(f'drop table "{SCHEMA}".parcels')
    await appended(world, "source", "old", 3)
    async with asyncio.timeout(30):
        while True:
            try:
                moved = await world.coordinators[0].initiate_cutover(migration.id)
                break
            except PreflightError:
                await asyncio.sleep(0.2)
    assert moved.state is MigrationState.MIGRATED
    assert await everything(world.target) == await everything(world.source)


async def test_what_the_target_already_has_refuses_the_start(world: LayoutWorld) -> None:
    await world.target.execute(f"insert into \"{SCHEMA}\".streams (name) values ('$all')")
    assert 'delete from "tenant a"."streams"' in await refused(world)


async def test_a_sequence_that_the_target_lacks_refuses_the_start(world: LayoutWorld) -> None:
    await world.target.execute(f'drop sequence "{SCHEMA}".tickets')
    assert 'has no sequence "tenant a"."tickets"' in await refused(world)


async def test_tables_that_are_one_tenants_do_not_move_under_another_name(
    world: LayoutWorld,
) -> None:
    await appended(world, "source", "old", 2)
    migration = await world.start("tenant-a")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    assert "are those of tenant 'tenant-a', not of 'tenant-b'" in await refused(world, "tenant-b")


async def test_a_declaration_is_written_from_the_catalog(world: LayoutWorld) -> None:
    layout = await derived(world.source)
    assert layout.is_whole
    assert layout.is_schema
    names = [each.name for each in layout.tables]
    assert names.index("stream_events") > max(names.index("events"), names.index("streams"))
    assert layout.table("stream_events").key == ("event_id", "stream_id")
    assert dict(layout.stays) == {
        "notes": "it has no primary key: nothing names its rows",
    }


async def killed_at(world: LayoutWorld, failpoint: str) -> None:
    moving = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.layouts.moving_process", json.dumps(world.dsns), "tenant-a",
        cwd=REPOSITORY, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "EVENTSOURCE_FAILPOINTS": f"{failpoint}=kill", "DECLARED": DECLARED,
             "DECLARED_SCHEMA": SCHEMA,
             "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY / "python"),
                                                         os.environ.get("PYTHONPATH"))))},
    )  # fmt: skip
    _, errors = await asyncio.wait_for(moving.communicate(), 60)
    assert moving.returncode == -signal.SIGKILL, errors.decode()[-1500:]


async def goes_on(world: LayoutWorld) -> None:
    coordinator = await world.process(lease_seconds=1.0)
    [migration] = await coordinator.get_migrations_by_tenant("tenant-a")
    await coordinator.resume_migration(migration.id)
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    await appended(world, "source", "later", 3)
    await coordinator.initiate_cutover(migration.id)


async def test_a_driver_that_dies_when_numbers_are_handed_over_loses_none(
    world: LayoutWorld,
) -> None:
    await appended(world, "source", "old", 10)
    await killed_at(world, "layout.numbers.committed")
    await goes_on(world)
    assert await everything(world.target) == await everything(world.source)
    [event] = await appended(world, "target", "new")
    assert event is not None


async def test_a_target_that_was_restored_to_before_the_move_gets_its_numbers_again(
    world: LayoutWorld,
) -> None:
    await appended(world, "source", "old", 10)
    await killed_at(world, "cutover.decision.committed")
    drops = await world.target.fetch(
        "select format('drop trigger %I on %s', tgname, tgrelid::regclass) from pg_trigger"
        " where tgname ~ '_guard_[0-9]+_(arrival|truncate)$'"
    )
    await world.target.execute(";".join(row[0] for row in drops))
    await world.target.execute(
        f'set search_path = "{SCHEMA}"; truncate streams, events, stream_events, subscriptions,'
        " eventsource_fences, eventsource_copy_progress restart identity; reset search_path;"
    )
    coordinator = await world.process(lease_seconds=1.0)
    [migration] = await coordinator.get_migrations_by_tenant("tenant-a")
    await coordinator.resume_migration(migration.id)
    await world.reaches(migration, MigrationState.MIGRATED)
    assert await everything(world.target) == await everything(world.source)
    [event] = await appended(world, "target", "new")
    assert event is not None


@pytest.fixture(scope="session")
def python() -> Path:
    return environment("eventsourcing-9.5.6", "eventsourcing[postgres]==9.5.6")


async def test_a_schema_of_pyeventsourcing_moves_and_the_library_goes_on_there(
    dsns: dict[str, str], python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    program = "pyeventsourcing_program.py"
    for side in ("source", "target"):
        connection = await asyncpg.connect(dsns[side])
        await connection.execute(f'create schema "{OTHERS}"')
        await asyncio.to_thread(Program(python, program, "make", dsns[side], OTHERS).finish)
        layout = await derived(connection, OTHERS)
        await connection.close()

    async def made(_: asyncpg.Connection) -> None:
        return

    async with layout_world(layout, made, dsns, schema=OTHERS) as world:
        writers = [
            Program(python, program, "write", dsns["source"], OTHERS, "3", "0") for _ in range(2)
        ]
        await asyncio.sleep(3)
        moved = await world.move("tenant-a")
        await asyncio.sleep(0.5)
        said = [line for each in writers for line in await asyncio.to_thread(each.finish)]
        assert moved.state is MigrationState.MIGRATED
        assert [line["refused"] for line in said if "refused" in line] == ["EVF01"] * 6
        stored = {tuple(each) for line in said for each in line.get("stored", ())}
        assert len(stored) > 100
        for table in (each.name for each in layout.tables):
            name = f'"{OTHERS}"."{table}"'
            here = await rows(world.source, name, "true")
            assert await rows(world.target, name, "true") == here
        await asyncio.to_thread(
            Program(python, program, "write", dsns["target"], OTHERS, "3", "5").finish
        )
        [read] = await asyncio.to_thread(
            Program(python, program, "read", dsns["target"], OTHERS).finish
        )
        order = await world.source.fetch(
            f"select notification_id, originator_id::text, originator_version"
            f' from "{OTHERS}".orders_events order by 1'
        )
        found = [tuple(each) for each in read["read"]]
        assert found[: len(order)] == [tuple(row) for row in order]
        assert len(found) > len(order)
        assert stored <= {each[1:] for each in found}
