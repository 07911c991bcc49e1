"""The control database is another place than when its migrations began: a warning, no refusal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from eventsource.migration import Migration, MigrationState
from eventsource.migration.recovery.report import ChangeKind
from eventsource.migration.repositories import control_place
from eventsource.retried import Retried
from eventsource.testing import Cluster
from tests.support.application import Process
from tests.support.worlds.three_databases import World

_S = MigrationState

_SET = "update tenant_migrations set control_identity = control_identity || $1::text::jsonb"


@asynccontextmanager
async def copied(world: World, cluster: Cluster) -> AsyncIterator[str]:
    """The control database as another one of its server; the one before stays as it is."""
    for process in world.processes:
        await process.stop()
    world.processes.clear()
    name = await world.control.fetchval("select current_database()")
    await world.control.close()
    there = await asyncpg.connect(cluster.dsn())
    try:
        await there.execute(f'drop database if exists "{name}_copy" with (force)')
        await there.execute(f'create database "{name}_copy" template "{name}"')
        world.control = await asyncpg.connect(world.dsns["control"])
        yield urlunsplit(urlsplit(world.dsns["control"])._replace(path=f"/{name}_copy"))
        for process in world.processes:
            await process.stop()
        await there.execute(f'drop database "{name}_copy" with (force)')
    finally:
        await there.close()


async def paused(world: World) -> Migration:
    await world.seed(20)
    migration = await world.dual_write()
    return await world.coordinator.pause_migration(migration.id)


async def ran(program: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What it prints."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate(given)
    assert process.returncode == 0
    return printed


async def said_by(process: Process) -> str:
    return await control_place.warning(process.control_pool) or ""


async def test_a_copy_is_warned_of_until_it_is_repaired(
    world: World, source_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    migration = await paused(world)
    assert migration.control_identity is not None
    assert await said_by(world.here) == ""
    async with copied(world, source_cluster) as dsn:
        process = await world.process(control_dsn=dsn)
        said = await said_by(process)
        assert f"migration {migration.id} began with" in said
        assert "in database" in said
        assert "eventsource-migrate repair" in said
        assert said == await control_place.warning_of(process.control_pool, migration)
        findings = await process.coordinator.preflight(world.other, process.source, process.target)
        assert said in findings.warnings
        with caplog.at_level(logging.WARNING, "eventsource.migration.driver"):
            await process.coordinator.resume_migration(migration.id)
            # Nothing is refused: it goes on, and so do others.
            await world.seed(5, world.other)
            await process.start(world.other)
            await process.coordinator.initiate_cutover(migration.id)
        assert caplog.text.count(said) == 1
        await process.coordinator.close()
        planned = await process.coordinator.repair(dry_run=True)
        # A driver that was ended between a fence and its guard leaves that one to the next, too.
        found = [each.kind for each in planned.changes if each.kind is not ChangeKind.GUARD]
        assert found == [ChangeKind.CONTROL]
        await process.coordinator.repair(operator="ann")
        assert await said_by(process) == ""
        bound = await process.migrations.get(migration.id)
        assert await control_place.warning_of(process.control_pool, bound) is None
        assert (await process.coordinator.repair()).changes == ()
        # The one that was left is where it was, and warns of nothing.
        assert await said_by(await world.process()) == ""


async def test_a_dump_on_another_server_is_another_place(
    world: World, source_cluster: Cluster, target_cluster: Cluster
) -> None:
    migration = await paused(world)
    dsn = await target_cluster.create_database()
    dump = await ran(source_cluster.program("pg_dump"), "--no-owner", world.dsns["control"])
    await ran(target_cluster.program("psql"), "-q", "-v", "ON_ERROR_STOP=1", dsn, given=dump)
    process = await world.process(control_dsn=dsn)
    try:
        said = await said_by(process)
        assert f"migration {migration.id} began with" in said
        for pool in (process.control_pool, world.here.control_pool):
            place = await control_place.here(pool)
            assert place is not None
            assert f"cluster {place.system}" in said
        resumed = await process.coordinator.resume_migration(migration.id)
        assert resumed.state is _S.DUAL_WRITE
    finally:
        await process.stop()
        world.processes.remove(process)
        await target_cluster.drop_database(dsn.rsplit("/", 1)[1])


@pytest.mark.parametrize("how", ["renamed", "dumped in place", "finished long ago", "older"])
async def test_what_is_the_same_place_and_what_is_not(
    world: World, source_cluster: Cluster, how: str
) -> None:
    migration = await paused(world)
    if how == "renamed":
        await world.control.execute(_SET, '{"name": "x"}')
        assert await said_by(world.here) == ""
    elif how == "dumped in place":
        # As `pg_restore --clean` leaves it: the same database, other tables.
        await world.control.execute(
            "create table other (like tenant_migrations including all);"
            " insert into other select * from tenant_migrations;"
            " alter table tenant_migrations rename to before;"
            " alter table other rename to tenant_migrations"
        )
        assert str(migration.id) in await said_by(world.here)
    elif how == "finished long ago":
        await world.control.execute(_SET, '{"system": "7"}')
        assert str(migration.id) in await said_by(world.here)
        await world.control.execute("update tenant_migrations set state = 'rolled_back'")
        assert str(migration.id) in await said_by(world.here), "it is the last one that began"
        await world.seed(5, world.other)
        await world.here.start(world.other)
        assert await said_by(world.here) == ""
    else:
        await world.control.execute("update tenant_migrations set control_identity = null")
        assert await said_by(world.here) == ""


async def test_a_role_that_may_not_know_the_place_is_not_kept_from_anything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> None:
        raise asyncpg.InsufficientPrivilegeError("permission denied for function pg_control_system")

    monkeypatch.setattr(Retried, "fetchrow", refused)
    assert await control_place.here(world.control) is None
    assert await control_place.warning(world.control) is None


async def test_a_return_is_at_home_where_it_is_asked_for(
    world: World, source_cluster: Cluster
) -> None:
    await world.seed(20)
    keeper = await world.process(keep_way_back=3600.0)
    move = await world.dual_write(process=keeper)
    move = await keeper.coordinator.initiate_cutover(move.id)
    async with copied(world, source_cluster) as dsn:
        process = await world.process(control_dsn=dsn, keep_way_back=3600.0)
        back = await process.coordinator.return_migration(move.id)
        assert back.control_identity == await control_place.here(process.control_pool)
        assert back.control_identity != move.control_identity
