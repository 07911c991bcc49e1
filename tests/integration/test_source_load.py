"""What a migration sees of its source's load, and how the copy answers to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from world import World, until

from eventsource.migration import Migration, MigrationConfig, throttle
from eventsource.migration.source_load import SourceLoad

EVENTS, LIMIT = 60_000, 2000.0

SESSIONS = 8
#: Half a second of work and more, so that a session that is always busy is seen so.
WORK = "select sum(n) from generate_series(1, 3000000) as n"


@asynccontextmanager
async def busy(world: World) -> AsyncIterator[None]:
    """Sessions that compute until the end of the block."""
    stopping = False

    async def work(connection: asyncpg.Connection) -> None:
        while not stopping:
            await connection.execute(WORK)

    connections = [await world.connect("source") for _ in range(SESSIONS)]
    tasks = [asyncio.create_task(work(connection)) for connection in connections]
    try:
        await until(lambda: _all_active(world), "every session at work")
        yield
    finally:
        stopping = True
        await asyncio.gather(*tasks)


async def _all_active(world: World) -> bool:
    count = await world.source.fetchval(
        "select count(*) from pg_stat_activity where state = 'active' and query = $1", WORK
    )
    return bool(count == SESSIONS)


async def opened(world: World, user: str | None = None) -> SourceLoad:
    parameters = await world.here.source.connection_parameters()
    load = await SourceLoad.open(parameters)
    world.connections.append(load.connection)
    if user is not None:
        await load.connection.execute(f"set session authorization {user}")
    return load


async def test_the_copy_slows_down_while_the_source_is_busy_and_recovers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "LOOK_SECONDS", 0.1)
    await world.seed(EVENTS)
    # Twenty times: what a machine that runs tests does to a commit is not what this is about.
    driver = await world.process(max_events_per_second=LIMIT, max_source_slowdown=20)
    migration = await driver.start(world.tenant)
    await world.reach(migration, "bulk_copy")

    async def when(rate: Callable[[float], bool]) -> Migration | None:
        found = await world.here.migrations.get(migration.id)
        return found if rate(found.throttle_rate or LIMIT) else None

    async with busy(world):
        slowed = await until(lambda: when(lambda rate: rate <= LIMIT / 4), "the copy slowed down")
    assert slowed.state == "bulk_copy"
    assert slowed.throttle_reason.endswith(" before the copy)")
    risen = await until(lambda: when(lambda rate: rate > LIMIT / 2), "the copy at its speed again")
    assert (risen.state, risen.config.max_events_per_second) == ("bulk_copy", LIMIT)
    await world.coordinator.set_rate(migration.id, None)
    done = await world.reach(migration, "dual_write")
    assert len(await world.ids("target")) == EVENTS
    assert done.config.max_source_slowdown == 20


async def test_a_source_that_is_not_to_be_watched_is_not_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_(*_: object) -> SourceLoad:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(SourceLoad, "open", open_)
    assert MigrationConfig().max_source_slowdown is None
    await world.seed(10)
    await world.migrate()


async def test_a_commit_is_timed_by_the_server_and_leaves_nothing_behind(world: World) -> None:
    before = await world.fingerprint()
    load = await opened(world)
    at = await world.source.fetchval("select pg_current_wal_flush_lsn()")
    commit_ms = (await load.look()).commit_ms
    flushed = await world.source.fetchval("select pg_current_wal_flush_lsn() - $1::pg_lsn", at)
    assert flushed > 0
    try:
        # A commit then waits before it flushes, as on a slow disk.
        await _set(world, "commit_delay", 100_000)
        await _set(world, "commit_siblings", 0)
        await until(lambda: _slower(load, 100.0), "commits that take long")
    finally:
        await world.source.execute("alter system reset commit_delay")
        await world.source.execute("alter system reset commit_siblings")
        await world.source.execute("select pg_reload_conf()")
    assert commit_ms is not None
    assert commit_ms > 0
    assert await world.fingerprint() == before


async def _set(world: World, name: str, value: int) -> None:
    await world.source.execute(f"alter system set {name} = {value}")
    await world.source.execute("select pg_reload_conf()")


async def _slower(load: SourceLoad, milliseconds: float) -> bool:
    return ((await load.look()).commit_ms or 0.0) >= milliseconds


async def test_a_commit_that_never_ends_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsource.migration.source_load.LONGEST_COMMIT", 0.2)
    monkeypatch.setattr("eventsource.migration.source_load._COMMIT", "select pg_sleep(60)")
    load = await opened(world)
    await load.connection.execute("set statement_timeout = '200ms'")
    assert (await load.look()).commit_ms == pytest.approx(200.0)


async def test_own_sessions_do_not_count_and_others_do(world: World) -> None:
    load = await opened(world)
    own = await opened(world)
    task = asyncio.create_task(own.connection.execute("select pg_sleep(60)"))
    try:
        idle = (await load.look()).active_sessions
        async with busy(world):
            assert (await load.look()).active_sessions == idle + SESSIONS
    finally:
        own.connection.terminate()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_the_role_may_not_see_is_unknown_and_no_error(world: World) -> None:
    await world.source.execute("create role looks_only")
    try:
        load = await opened(world, "looks_only")
        seen = await load.look()
        assert seen.active_sessions is None
        assert seen.replica_lag_mb is None
        assert seen.commit_ms is not None
        await load.connection.execute("reset session authorization")
        await world.source.execute("grant pg_read_all_stats to looks_only")
        await load.connection.execute("set session authorization looks_only")
        assert (await load.look()).active_sessions is not None
    finally:
        await world.source.execute("drop role looks_only")
