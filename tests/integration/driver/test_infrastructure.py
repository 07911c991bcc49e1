"""What the servers and their administrators do to a migration, other than crash."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import asyncpg
import pytest

from eventsource.connections import ConnectionParameters
from eventsource.migration import MigrationState, PreflightError
from eventsource.migration.connections import timeouts
from eventsource.migration.connections.driver_connections import open_connection
from eventsource.migration.preflight import admission
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from eventsource.testing.proxy import Proxy
from tests.support.application import SOURCE, TARGET, writing
from tests.support.refusals import as_owner, elsewhere, migrating_as, refusal
from tests.support.waiting import until
from tests.support.worlds.three_databases import SOURCE_TABLE, World, table

#: Settings of a role or database that are meant for its applications.
TIMEOUTS = {
    "statement_timeout": "10s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "5s",
    "idle_session_timeout": "1s",
}

END_DRIVERS = (
    "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
    " where application_name like 'eventsource-migrate%' and datname = current_database()"
)


async def set_timeouts(world: World) -> None:
    for side in ("source", "target", "control"):
        connection = getattr(world, side)
        name = await connection.fetchval("select current_database()")
        settings = dict(TIMEOUTS)
        if await connection.fetchval("select current_setting('server_version_num')::int >= 170000"):
            settings["transaction_timeout"] = "10s"
        for setting, value in settings.items():
            await connection.execute(f"alter database \"{name}\" set {setting} = '{value}'")


async def test_timeouts_of_the_role_do_not_reach_the_driver(world: World) -> None:
    await world.seed(200)
    await set_timeouts(world)
    for side in ("source", "target", "control"):
        link = await open_connection(ConnectionParameters(world.dsns[side]))
        for setting in ("statement_timeout", "lock_timeout", "idle_session_timeout"):
            assert await link.fetchval(f"show {setting}") == "0"
        if side == "target":
            assert await link.fetchval("show transaction_timeout") == "0"
        assert await link.fetchval("show idle_in_transaction_session_timeout") == "5s"
        await link.close()
    # It rests for longer than an idle session of an application may.
    process = await world.process(pass_interval_seconds=2.0)
    migration = await process.start(world.tenant)
    await world.reach(migration, "dual_write")
    driver = "select pid from pg_stat_activity where application_name = 'eventsource-migrate'"
    driver += " and datname = current_database() order by 1"
    sessions = await world.source.fetch(driver)
    number = "select pass_number from eventsource_copy_progress"
    begun = await world.target.fetchval(number)

    async def passed() -> bool:
        return int(await world.target.fetchval(number)) >= int(begun) + 2

    await until(passed, "two more passes")
    assert await world.source.fetch(driver) == sessions
    done = await process.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    await world.assert_moved(done)


@pytest.mark.parametrize(
    ("side", "named"),
    [
        ("source", f"store {SOURCE!r}: "),
        ("target", f"store {TARGET!r}: "),
        ("control", "the control database: "),
    ],
)
async def test_a_wait_for_sessions_that_were_ended_says_whose_they_were(
    world: World, caplog: pytest.LogCaptureFixture, side: str, named: str
) -> None:
    await world.seed(20)
    migration = await world.dual_write()
    with caplog.at_level(logging.WARNING, "eventsource.migration.driver"):
        await getattr(world, side).execute(END_DRIVERS)
        said = await until(lambda: _waits(caplog), "a wait that is said")
    assert all(f"migration {migration.id} waits: {named}" in each for each in said)
    await world.coordinator.initiate_cutover(migration.id)


async def test_a_wait_for_another_store_has_a_time_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had that of the wait before, which was over."""
    messages: list[str] = []
    record = PostgreSQLMigrationRepository.record_error

    async def recorded(self: PostgreSQLMigrationRepository, *row: Any) -> None:
        if row[2] is not None:
            messages.append(row[2])
        await record(self, *row)

    monkeypatch.setattr(PostgreSQLMigrationRepository, "record_error", recorded)

    async def since(store: str) -> str:
        found = [each for each in messages if f"store {store!r}" in each]
        return found[-1].rpartition("(since ")[2] if found else ""

    await world.seed(20)
    await world.dual_write()
    await world.target.execute(END_DRIVERS)
    first = await until(lambda: since(TARGET), "a wait for the target")
    await asyncio.sleep(1.5)
    await world.source.execute(END_DRIVERS)
    second = await until(lambda: since(SOURCE), "a wait for the source")
    assert second > first


async def _waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for each in caplog.records if " waits: " in (text := each.getMessage())]


async def test_a_connection_limit_that_stays_reached_refuses_the_move(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others give connections back, so it is asked again for a while.
    monkeypatch.setattr(admission, "CONNECTION_SECONDS", 0.5)
    await world.seed(3)
    async with as_owner(world) as role:
        process = await world.process(**migrating_as(world, role))
        # The pools have theirs already, and the driver's own would be too many.
        for store in (process.source, process.target):
            await store.pool.fetchval("select 1")
        await process.migrations.pool.fetchval("select 1")
        await world.target.execute(f"alter role {role} connection limit 1")
        told = (
            "the target's database has had no connection left",
            "too many connections",
            "or the connection limit of the user or the database",
        )
        async with refusal(world, PreflightError, *told):
            await process.start(world.tenant)
        await process.stop()


async def test_a_connection_limit_that_is_reached_meanwhile_is_waited_for(world: World) -> None:
    await world.seed(30)
    async with as_owner(world) as role:
        process = await world.process(**migrating_as(world, role))
        migration = await process.start(world.tenant)
        await world.reach(migration, "dual_write")
        await world.target.execute(f"alter role {role} connection limit 1")
        await world.target.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1"
            " and application_name = 'eventsource-migrate'",
            role,
        )

        async def told() -> bool:
            seen = await world.here.migrations.get(migration.id)
            return "waiting: " in (seen.error_message or "") and "too many" in str(
                seen.error_message
            )

        await until(told, "the driver to say what it waits for")
        await world.target.execute(f"alter role {role} connection limit -1")
        done = await process.coordinator.initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        await process.stop()
    await world.assert_moved(done)


async def test_a_prepared_transaction_holds_up_the_start_and_nobody_else(world: World) -> None:
    await world.seed(30)
    async with world.open_transaction(world.other) as blocker:
        await blocker.execute("prepare transaction 'from-yesterday'")
        async with writing(world.here, world.other) as writers:
            migration = await world.here.start(world.tenant)
            seen = writers.acknowledged
            # Asking for the lock again and again, it lets the writers through each time.
            await until(lambda: _more(writers, seen + 50), "appends meanwhile")
            assert (await world.here.migrations.get(migration.id)).state == "pending"
            await blocker.execute("commit prepared 'from-yesterday'")
            await world.reach(migration, "dual_write")
        assert writers.longest < 5
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)
    assert len(await world.ids("source", world.other)) == writers.acknowledged + 1


async def test_a_prepared_transaction_at_the_start_can_be_aborted_away_from(world: World) -> None:
    before = await world.fingerprint(journal=False)
    async with world.open_transaction(world.other) as blocker:
        await blocker.execute("prepare transaction 'from-yesterday'")
        migration = await world.here.start(world.tenant)
        await world.reach(migration, "pending")
        aborted = await world.coordinator.abort_migration(migration.id)
        assert aborted.state is MigrationState.ROLLED_BACK
        await blocker.execute("rollback prepared 'from-yesterday'")
    after = await world.fingerprint(journal=False)
    for side in ("target", "control"):
        assert after[side] == before[side]
    assert after["source"]["catalog"] == before["source"]["catalog"]


async def test_a_server_that_is_silent_while_the_data_plane_logs_in_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver waited without end, and nothing was said: its heart beat on."""
    monkeypatch.setattr(timeouts, "STALLED_SECONDS", 1.0)
    await world.seed(20)
    async with Proxy(world.dsns["source"]) as proxy:
        log_in = proxy.hold_at("set enable_bitmapscan = off")
        process = await world.process(**elsewhere(world, "source", proxy.through))
        migration = await process.start(world.tenant)
        await log_in.reached()
        await asyncio.wait_for(world.reach(migration, "dual_write"), 20)
        await process.stop()


async def _more(writers: Any, wanted: int) -> bool:
    return bool(writers.acknowledged >= wanted)


async def test_a_router_that_is_ten_minutes_stale_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy(world.dsns["control"]) as proxy:
        stale = await world.process(**elsewhere(world, "control", proxy.through))
        first = await stale.append(world.tenant)
        assert first.success
        # From here on it hears of nothing, neither by NOTIFY nor by asking.
        proxy.refuse()
        proxy.cut()
        done = await world.migrate()
        await world.here.append(world.tenant)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 600.0)
        results = await asyncio.gather(*(stale.append(world.tenant) for _ in range(20)))
        monkeypatch.undo()
        assert all(result.success for result in results)
        assert len(await world.ids("target")) == 22
        assert await world.ids("source") == (await world.ids("target"))[:1]
        # A reader of its that wrote nothing yet is told by the next append, not by silence.
        with pytest.raises(asyncpg.PostgresError) as refused:
            await world.source.execute(
                f"insert into {table('source')} select * from {SOURCE_TABLE} where false or"
                " tenant_id = $1",
                world.tenant,
            )
        assert refused.value.sqlstate == "EVF01"
        await stale.stop()
    await world.assert_moved(done)
