"""What a migration sees of its source's load, and how the copy answers to it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from eventsource.migration import Migration, MigrationConfig
from eventsource.migration.driver import throttle
from eventsource.migration.driver.source_load import SourceLoad
from eventsource.testing import Cluster
from tests.support.copy_pace import speed
from tests.support.standby import Standby, standby_of
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

EVENTS, LIMIT = 60_000, 2000.0

#: More than what is nobody's trouble.
BEHIND_MB = 48

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


async def copying(world: World) -> Migration:
    """A copy that takes half a minute, unless it is let go."""
    # Twenty times: what a machine that runs tests does to a commit is not what this is about.
    driver = await world.process(max_events_per_second=LIMIT, max_source_slowdown=20)
    migration = await driver.start(world.tenant)
    await world.reach(migration, "bulk_copy")
    return migration


async def at_rate(
    world: World, migration: Migration, fits: Callable[[float], bool], reason: str = ""
) -> Migration:
    """Wait until the journal shows such a rate, and that it is for this reason."""

    async def look() -> Migration | None:
        found = await world.here.migrations.get(migration.id)
        is_it = fits(found.throttle_rate or LIMIT) and reason in (found.throttle_reason or "")
        return found if is_it else None

    found = await until(look, f"another rate {reason}")
    assert (found.state, found.config.max_events_per_second) == ("bulk_copy", LIMIT)
    return found


@pytest.mark.alone
async def test_the_copy_slows_down_while_the_source_is_busy_and_recovers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "LOOK_SECONDS", 0.1)
    await world.seed(EVENTS)
    migration = await copying(world)
    async with busy(world):
        slowed = await at_rate(world, migration, lambda rate: rate <= LIMIT / 4)
    assert slowed.throttle_reason is not None
    assert slowed.throttle_reason.endswith(" before the copy)")
    await at_rate(world, migration, lambda rate: rate > LIMIT / 2)
    await world.coordinator.set_rate(migration.id, None)
    done = await world.reach(migration, "dual_write")
    assert len(await world.ids("target")) == EVENTS
    assert done.config.max_source_slowdown == 20


@asynccontextmanager
async def replay_paused(standby: Standby) -> AsyncIterator[None]:
    """It receives and does not replay, as behind a long query or a slow disk."""
    connection = await asyncpg.connect(standby.dsn())
    try:
        await connection.execute("select pg_wal_replay_pause()")
        yield
        await connection.execute("select pg_wal_replay_resume()")
    finally:
        await connection.close()


@asynccontextmanager
async def receiver_frozen(standby: Standby) -> AsyncIterator[None]:
    """It says nothing any more, as behind a link that broke without a word."""
    connection = await asyncpg.connect(standby.dsn())
    pid = await connection.fetchval("select pid from pg_stat_wal_receiver")
    await connection.close()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.alone
async def test_the_copy_slows_down_while_a_replica_is_behind_and_recovers(
    world: World, source_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "LOOK_SECONDS", 0.1)
    await world.seed(EVENTS)
    # A checkpoint meanwhile must not remove what the standby has yet to be sent.
    async with settings(world, wal_keep_size=1024):
        with standby_of(source_cluster) as standby:
            await standby.caught_up(source_cluster)
            migration = await copying(world)
            for standing_still in (replay_paused, receiver_frozen):
                async with standing_still(standby):
                    await write_ahead(world, BEHIND_MB)
                    await at_rate(world, migration, lambda rate: rate <= LIMIT / 8, "a replica is")
                    assert await speed(world, rows=150) <= LIMIT / 2
                await standby.caught_up(source_cluster)
                await at_rate(world, migration, lambda rate: rate > LIMIT / 2)
                # A busy machine may stall a window of the copy, but not every one.
                await until(lambda: _is_faster_than(world, LIMIT / 2), "the copy at its speed")


async def _is_faster_than(world: World, rate: float) -> bool:
    return await speed(world, rows=1000) > rate


async def write_ahead(world: World, megabytes: int) -> None:
    """So much write-ahead log, and nothing else."""
    await world.source.execute(
        "select pg_logical_emit_message(true, 'ahead', repeat('x', 1048576))"
        " from generate_series(1, $1)",
        megabytes,
    )


@asynccontextmanager
async def settings(world: World, **values: int) -> AsyncIterator[None]:
    """Of the source's server, back to what they were at the end."""
    for name, value in values.items():
        await world.source.execute(f"alter system set {name} = {value}")
    await world.source.execute("select pg_reload_conf()")
    try:
        yield
    finally:
        for name in values:
            await world.source.execute(f"alter system reset {name}")
        await world.source.execute("select pg_reload_conf()")


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
    # A commit then waits before it flushes, as on a slow disk; without fsync it would not.
    async with settings(world, fsync=1, commit_delay=100_000, commit_siblings=0):
        await until(lambda: _slower(load, 100.0), "commits that take long")
    assert commit_ms is not None
    assert commit_ms > 0
    assert await world.fingerprint() == before


async def _slower(load: SourceLoad, milliseconds: float) -> bool:
    return ((await load.look()).commit_ms or 0.0) >= milliseconds


async def test_a_commit_that_never_ends_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsource.migration.driver.source_load.LONGEST_COMMIT", 0.2)
    monkeypatch.setattr("eventsource.migration.driver.source_load._COMMIT", "select pg_sleep(60)")
    load = await opened(world)
    await load.connection.execute("set statement_timeout = '200ms'")
    assert (await load.look()).commit_ms == pytest.approx(200.0)


@pytest.mark.alone
async def test_own_sessions_do_not_count_and_others_do(world: World) -> None:
    load = await opened(world)
    own = await opened(world)
    task = asyncio.create_task(own.connection.execute("select pg_sleep(60)"))
    try:
        idle = (await load.look()).active_sessions
        assert idle is not None
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
