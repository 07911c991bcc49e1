"""A tenant does not move to where its own processes could not write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import (
    MigrationError,
    MigrationState,
    RouterReport,
    RoutersNotReadyError,
    TenantStoreRouter,
)
from eventsource.migration.driver import cutting_over
from eventsource.migration.repositories import PostgreSQLRoutingRepository, router_reports
from eventsource.migration.routing import readiness
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster
from tests.support.application import SOURCE, TARGET, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World, table


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "INTERVAL", 0.1)
    monkeypatch.setattr(readiness, "PATIENCE", 1.0)


@asynccontextmanager
async def login(world: World, side: str, rights: str) -> AsyncIterator[str]:
    """The DSN of a role with nothing but these rights on the side's database."""
    name = f"app_{uuid4().hex[:8]}"
    observer: asyncpg.Connection = getattr(world, side)
    await observer.execute(f"create role {name} login password 'it'; {rights.format(role=name)}")
    parts = urlsplit(world.dsns[side])
    place = parts.netloc.rpartition("@")[2]
    try:
        yield urlunsplit(parts._replace(netloc=f"{name}:it@{place}"))
    finally:
        await observer.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1::text",
            name,
        )
        await observer.execute(f"drop owned by {name}; drop role {name}")


@asynccontextmanager
async def with_target(world: World, dsn: str, name: str = TARGET_TABLE) -> AsyncIterator[Process]:
    """A process whose address of the target is this one."""
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=3)
    try:
        yield await world.process(target_store=lambda _: PostgreSQLEventStore(pool, name))
    finally:
        pool.terminate()


async def no_right(world: World, process: Process) -> None:
    """Nothing to prepare: the role is what is wrong."""


async def reports(world: World, process: Process, *, ready: bool) -> RouterReport:
    """What the process has said, once it says this."""
    migration = (await world.coordinator.get_migrations_by_tenant(world.tenant))[-1]

    async def said() -> RouterReport | None:
        found = await world.coordinator.routers(migration.id)
        return next((each for each in found if each.ready is ready), None)

    return await until(said, f"a report that is ready={ready}")


async def refused(world: World, reason: str) -> None:
    """The cutover is refused for what a process says, and the tenant stays where it is."""
    [migration] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    with pytest.raises(RoutersNotReadyError, match=reason) as caught:
        await world.coordinator.initiate_cutover(migration.id, force=True)
    assert "--leave-out" in str(caught.value)
    now = await world.coordinator.get_migration(migration.id)
    assert now.state is MigrationState.DUAL_WRITE
    assert now.cutover_outcome is not None
    assert now.cutover_outcome["code"] == "routers_not_ready"


async def moved(world: World, process: Process) -> None:
    [migration] = await world.coordinator.get_migrations_by_tenant(world.tenant)
    done = await world.coordinator.initiate_cutover(migration.id, force=True)
    assert done.state is MigrationState.MIGRATED
    await process.append(world.tenant)


RIGHTS = "grant usage on schema public to {{role}}; grant {rights} on {table} to {{role}}"
READS_ONLY = RIGHTS.format(rights="select", table=table("target"))


async def test_a_role_without_the_right_to_insert_is_noticed_and_mended(world: World) -> None:
    async with login(world, "target", READS_ONLY) as dsn, with_target(world, dsn) as process:
        await process.append(world.tenant)
        await world.dual_write()
        report = await reports(world, process, ready=False)
        assert "permission denied" in str(report.reason)
        assert "grant" in str(report.reason)
        await refused(world, "permission denied")
        await world.target.execute(
            f"grant insert on {table('target')} to {urlsplit(dsn).username};"
            f" grant select on eventsource_fences to {urlsplit(dsn).username}"
        )
        await reports(world, process, ready=True)
        await moved(world, process)


async def test_sessions_of_which_nobody_has_said_anything_are_counted(world: World) -> None:
    process = await world.process()
    await process.append(world.tenant)
    migration = await world.dual_write(process=process)
    report = await reports(world, process, ready=True)
    assert report.sessions >= 1
    before = await world.coordinator.unreported_sessions(migration.id)
    # Another program, which never heard of routers, and one that may only read.
    others = [await world.connect() for _ in range(3)]
    async with login(world, "source", READS_ONLY.replace(TARGET_TABLE, SOURCE_TABLE)) as dsn:
        reader = await asyncpg.connect(dsn)
        assert await world.coordinator.unreported_sessions(migration.id) == before + 3
        await reader.close()
    for each in others:
        await each.close()

    async def gone() -> bool:
        return bool(await world.coordinator.unreported_sessions(migration.id) == before)

    await until(gone, "the sessions to be gone")


async def test_a_host_that_refuses_connections_is_noticed(world: World, silent_port: int) -> None:
    async with with_target(world, f"postgresql://nobody@127.0.0.1:{silent_port}/x") as process:
        await process.append(world.tenant)
        await world.dual_write()
        await reports(world, process, ready=False)
        await refused(world, "has not answered within 1 s")


async def test_an_address_of_another_database_is_noticed(
    world: World, target_dsn: str, target_cluster: Cluster
) -> None:
    pool = await asyncpg.create_pool(target_dsn, min_size=0)
    await PostgreSQLEventStore(pool, TARGET_TABLE).create_schema()
    pool.terminate()
    async with with_target(world, target_dsn) as process:
        await process.append(world.tenant)
        await world.dual_write()
        await reports(world, process, ready=False)
        await refused(world, "another database for it than for the driver")


async def test_a_database_without_the_table_is_noticed(world: World, target_dsn: str) -> None:
    async with with_target(world, target_dsn) as process:
        await process.append(world.tenant)
        await world.dual_write()
        await reports(world, process, ready=False)
        await refused(world, "does not exist")


async def test_a_store_that_a_router_does_not_know_is_noticed(world: World) -> None:
    known = world.here.source
    routes = PostgreSQLRoutingRepository(world.here.control_pool)
    router = TenantStoreRouter(known, routes, {SOURCE: known})
    stranger = await world.process()
    stranger.router = router
    await stranger.append(world.tenant)
    await world.dual_write()
    report = await reports(world, stranger, ready=False)
    assert f"store '{TARGET}' is not in its `stores`" in str(report.reason)
    await refused(world, "is not in its `stores`")
    await router.close()


async def test_a_rehearsal_is_refused_for_the_same_reason(world: World) -> None:
    async with login(world, "target", READS_ONLY) as dsn, with_target(world, dsn) as process:
        await process.append(world.tenant)
        migration = await world.dual_write()
        await reports(world, process, ready=False)
        with pytest.raises(RoutersNotReadyError, match="permission denied"):
            await world.coordinator.rehearse_cutover(migration.id, force=True)


async def test_one_that_is_left_out_by_name_is_not_waited_for(world: World) -> None:
    async with login(world, "target", READS_ONLY) as dsn, with_target(world, dsn) as process:
        await process.append(world.tenant)
        migration = await world.dual_write()
        report = await reports(world, process, ready=False)
        with pytest.raises(MigrationError, match=r"no router 'web-1' .* those that have: '"):
            await world.coordinator.leave_out_router(migration.id, "web-1")
        await world.coordinator.leave_out_router(migration.id, report.router, operator="ada")
        done = await world.coordinator.initiate_cutover(migration.id, force=True)
        assert done.state is MigrationState.MIGRATED
        [kept] = await world.coordinator.routers(migration.id)
        assert (kept.router, kept.left_out_by) == (report.router, "ada")
        audited = await world.control.fetchval(
            "select operator from migration_audit_log where event_type = 'router:left_out'"
        )
        assert audited == "ada"


async def test_one_that_has_ended_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_reports, "BELIEVED", 1.0)
    async with login(world, "target", READS_ONLY) as dsn, with_target(world, dsn) as process:
        await process.append(world.tenant)
        migration = await world.dual_write()
        await reports(world, process, ready=False)
        await process.stop()
        world.processes.remove(process)

        async def forgotten() -> bool:
            return not any(r.is_live for r in await world.coordinator.routers(migration.id))

        await until(forgotten, "a process that is not heard of any more")
        done = await world.coordinator.initiate_cutover(migration.id, force=True)
        assert done.state is MigrationState.MIGRATED


async def _idle(world: World, process: Process) -> None:
    await process.append(world.other)


async def _silent(world: World, process: Process) -> None:
    await world.control.execute("drop table migration_router_reports")
    await process.append(world.tenant)


@pytest.mark.parametrize(
    "says_nothing", [_idle, _silent], ids=["writes for another tenant", "an older version"]
)
async def test_nobody_waits_for_those_that_say_nothing(
    world: World, says_nothing: Callable[[World, Process], Awaitable[None]]
) -> None:
    async with login(world, "target", READS_ONLY) as dsn, with_target(world, dsn) as process:
        migration = await world.dual_write()
        await says_nothing(world, process)
        done = await world.coordinator.initiate_cutover(migration.id, force=True)
        assert done.state is MigrationState.MIGRATED


async def test_those_that_are_ready_say_so_and_end_with_the_move(world: World) -> None:
    await world.router.route(world.tenant)
    await world.here.append(world.tenant)
    migration = await world.dual_write()
    report = await reports(world, world.here, ready=True)
    assert (report.reason, report.is_waited_for) == (None, False)
    await moved(world, world.here)
    seen = [each.seen_at for each in await world.coordinator.routers(migration.id)]

    async def reporting() -> bool:
        return bool(world.router._readiness._under_way)

    async def ended() -> bool:
        return not await reporting()

    await until(ended, "the end of the reports")
    assert len(seen) == 1


async def test_a_process_that_is_not_ready_any_more_after_the_comparison_is_heard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison takes long: somebody has taken a right away meanwhile."""
    rights = READS_ONLY.replace("select", "select, insert")
    shrink = cutting_over._shrink_the_lag
    async with login(world, "target", rights) as dsn, with_target(world, dsn) as process:
        await world.target.execute(
            f"grant select on eventsource_fences to {urlsplit(dsn).username}"
        )
        await process.append(world.tenant)
        await world.dual_write()
        await reports(world, process, ready=True)

        async def and_revoke(*given: Any) -> bool:
            small = await shrink(*given)
            await world.target.execute(
                f"revoke insert on {table('target')} from {urlsplit(dsn).username}"
            )
            await reports(world, process, ready=False)
            return small

        monkeypatch.setattr(cutting_over, "_shrink_the_lag", and_revoke)
        await refused(world, "permission denied")
