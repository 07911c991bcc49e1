"""Whatever waits says what for, for which session and since when, and takes it back afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventsource.migration import Migration
from eventsource.migration.connections import blockers
from eventsource.migration.connections.driver_connections import DriverConnections
from eventsource.migration.driver import cutting_over, requests
from eventsource.migration.errors import CutoverTimeoutError
from eventsource.migration.tables import deferred_indexes, fences
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.held_migration import held_in
from tests.support.waiting import until
from tests.support.worlds.three_databases import TARGET_TABLE, World, insert, table

#: What an operator is promised (seconds).
SAID_WITHIN = CLEARED_WITHIN = 3.0

_SAID = re.compile(
    r"^waiting for .*, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; in the way: "
    r"pid (\d+) \(nightly-report, (idle in transaction|active), open for \d+ s, \w+@[\d.]+\)"
)


@pytest.mark.parametrize("waiting", ["start", "abort", "abort of a return", "cutover"])
async def test_a_wait_names_the_session_that_is_in_the_way(world: World, waiting: str) -> None:
    await world.seed(20)
    await world.seed(20, world.other)
    here = await world.process(cutover_timeout_seconds=8.0)
    tenant = world.tenant if waiting == "cutover" else world.other
    async with contextlib.AsyncExitStack() as stack:
        if waiting == "start":
            blocker = await stack.enter_async_context(_writing(world, tenant))
            migration = await here.start(world.tenant)
        else:
            migration = await world.dual_write(process=here)
            side = "target" if waiting == "abort of a return" else "source"
            blocker = await stack.enter_async_context(_writing(world, tenant, side))
            call = (
                here.coordinator.initiate_cutover
                if waiting == "cutover"
                else (here.coordinator.abort_migration)
            )
            asking = asyncio.create_task(call(migration.id))
        began = time.monotonic()
        said = await until(lambda: _message(world, migration), "a word")
        assert time.monotonic() - began < SAID_WITHIN + 1  # this machine's pace
        found = _SAID.match(said)
        assert found is not None, said
        assert int(found[1]) == blocker.get_server_pid()
        assert "secret" not in said
        await blocker.execute("rollback")
        began = time.monotonic()
        await until(lambda: _is_silent(world, migration, said), "silence")
        assert time.monotonic() - began < CLEARED_WITHIN
    if waiting == "start":
        await world.reach(migration, "dual_write")
    else:
        await asking


async def test_sessions_that_came_later_are_not_in_the_way(world: World) -> None:
    """Nor the appends that wait for the fence themselves."""
    await world.seed(20)
    migration = await world.dual_write()
    here = await world.process(cutover_timeout_seconds=5.0)
    await world.control.execute(
        "update tenant_migrations set config = jsonb_set(config, '{cutover_timeout_seconds}', '5')"
    )
    async with _writing(world, world.tenant) as blocker:
        asking = asyncio.create_task(here.coordinator.initiate_cutover(migration.id))
        appends = [asyncio.create_task(here.append(world.tenant)) for _ in range(5)]
        said = await until(lambda: _message(world, migration), "a word")
        assert re.findall(r"pid (\d+)", said) == [str(blocker.get_server_pid())]
        await blocker.execute("rollback")
        await asking
    await asyncio.gather(*appends)


@pytest.mark.parametrize("what", ["fence", "table"])
async def test_who_holds_it_as_well_but_came_after_the_wait_began_is_not_in_the_way(
    world: World, what: str
) -> None:
    """Between two attempts for the lock other writers run, and some of them stay."""
    await world.seed(20)
    await world.dual_write()
    fence = await world.source.fetchval("select lock_id from eventsource_fences")

    async def named(seconds: float) -> list[int]:
        at = world.source
        holders = await (
            blockers.of_fence(at, fences.LOCK_CLASS, fence, seconds)
            if what == "fence"
            else blockers.of_table(at, table("source"), seconds)
        )
        return [each.pid for each in holders]

    async with _writing(world, world.tenant) as old:
        await asyncio.sleep(1)
        began = time.monotonic()
        await asyncio.sleep(1)
        async with _writing(world, world.tenant) as young:
            pids = [each.get_server_pid() for each in (old, young)]
            assert await named(time.monotonic() - began) == pids[:1]
            assert await named(0.0) == pids


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("state", ["bulk_copy", "dual_write"])
async def test_a_reader_holds_up_no_abort(world: World, state: str, side: str) -> None:
    reader = await world.connect(side, application_name="nightly-report")
    async with held_in(world, state) as (migration, _):
        await reader.execute("begin")
        await reader.fetch(f"select * from {table(side)} limit 1")
        began = time.monotonic()
        await world.coordinator.abort_migration(migration.id)
        assert time.monotonic() - began < 8
        # The guard lets everybody pass, though its triggers may still be there.
        await world.source.execute(
            f"update {table('source')} set actor_id = 'x' where tenant_id = $1", world.tenant
        )
        await insert(world.source, world.tenant)
        await insert(world.target, world.tenant, side="target")
        await world.target.execute(f"delete from {table('target')}")
        await reader.execute("rollback")
    # The next migration drops what was left, and guards its tenant again.
    if state == "dual_write":
        again = await world.dual_write()
        with pytest.raises(asyncpg.PostgresError, match="cannot be changed while it migrates"):
            await world.source.execute(f"update {table('source')} set actor_id = 'y'")
        await world.coordinator.abort_migration(again.id)
        for connection, name in ((world.source, "source"), (world.target, "target")):
            left = await connection.fetchval(
                "select count(*) from pg_trigger where tgrelid = $1::text::regclass"
                " and tgname like 'zzz_eventsource_guard%'",
                table(name),
            )
            assert left == 0


@pytest.mark.parametrize("away", ["refused", "silent"])
@pytest.mark.parametrize("alone", [True, False], ids=["no driver", "a driver that waits"])
async def test_a_pause_needs_the_control_database_alone(
    world: World, away: str, alone: bool
) -> None:
    await world.seed(20)
    migration = await world.dual_write()
    await world.here.stop()
    with _nobody(away) as dsn:

        def store(pool: asyncpg.Pool) -> PostgreSQLEventStore:
            return PostgreSQLEventStore(pool, TARGET_TABLE, dsn=dsn, schema="public")

        here = await world.process(target_store=store)
        if not alone:
            await here.coordinator.resume_migration(migration.id)
            await until(lambda: _message(world, migration), "a word", 15)
        async with asyncio.timeout(6):
            paused = await here.coordinator.pause_migration(migration.id)
        assert (paused.state, paused.paused_from) == ("paused", "dual_write")
        await here.coordinator.close()


async def test_a_store_that_is_away_is_said_and_taken_back(world: World) -> None:
    await world.seed(20)
    migration = await world.dual_write()
    await world.here.stop()
    with _nobody("silent") as dsn:

        def store(pool: asyncpg.Pool) -> PostgreSQLEventStore:
            return PostgreSQLEventStore(pool, TARGET_TABLE, dsn=dsn, schema="public")

        here = await world.process(target_store=store)
        await here.coordinator.resume_migration(migration.id)
        said = await until(lambda: _message(world, migration), "a word")
        assert said.startswith("waiting for connections")
        await here.coordinator.close()
    there = await world.process()
    await there.coordinator.resume_migration(migration.id)
    await until(lambda: _is_silent(world, migration, said), "silence")


@pytest.mark.parametrize("mirror", [True, False])
async def test_a_cutover_lifts_the_limit(world: World, mirror: bool) -> None:
    await world.seed(20)
    here = await world.process(mirror_writes=mirror)
    migration = await world.dual_write(process=here)
    await here.coordinator.set_rate(migration.id, 20)
    await world.seed(2000)
    began = time.monotonic()
    done = await here.coordinator.initiate_cutover(migration.id)
    assert done.state == "migrated"
    assert time.monotonic() - began < 30
    assert await world.ids("source") == await world.ids("target")


async def test_a_cutover_that_cannot_catch_up_ends_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting_over, "SHRINK_SECONDS", 3.0)
    await world.seed(20)
    here = await world.process(sync_lag_threshold=0, mirror_writes=False)
    migration = await world.dual_write(process=here)

    # On the server: no client is as fast. Several: a pass may find one of them asleep.
    endlessly = f"""
        do $$ begin loop
            insert into {table("source")} (event_id, aggregate_id, aggregate_type, event_type,
                tenant_id, version, timestamp, payload)
            values (gen_random_uuid(), gen_random_uuid(), 'Note', 'world.noted',
                    '{world.tenant}', 1, now(), '{{}}');
            commit;
        end loop; end $$
        """
    writers = [await world.connect() for _ in range(3)]
    writing = [asyncio.create_task(writer.execute(endlessly)) for writer in writers]
    await until(partial(_has_written, world, 100), "a writer at its work")
    began = time.monotonic()
    with pytest.raises(CutoverTimeoutError, match="a pass still found") as caught:
        await here.coordinator.initiate_cutover(migration.id, force=True)
    assert time.monotonic() - began < 20
    assert caught.value.reason is not None
    for each in writing:
        each.cancel()
        with contextlib.suppress(asyncio.CancelledError, asyncpg.PostgresError):
            await each
    assert (await here.migrations.get(migration.id)).state == "dual_write"
    assert (await here.coordinator.initiate_cutover(migration.id)).state == "migrated"


async def _has_written(world: World, count: int) -> bool:
    return len(await world.ids("source")) > count


async def test_an_abort_ends_the_building_of_indexes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", 10)
    await world.seed(200)
    building = asyncio.Event()

    async def build_for_hours(connection: asyncpg.Connection, missing: Iterator[object]) -> None:
        if next(missing, None) is not None:
            building.set()
            await connection.execute("select pg_sleep(600)", timeout=700)

    before = await world.fingerprint(journal=False)
    build_some = deferred_indexes._build_some
    monkeypatch.setattr(deferred_indexes, "_build_some", build_for_hours)
    migration = await world.here.start(world.tenant)
    async with asyncio.timeout(30):
        await building.wait()
    said = await until(lambda: _message(world, migration), "a word")
    assert said.startswith("waiting for the indexes of")
    # The abort builds them over no rows.
    monkeypatch.setattr(deferred_indexes, "_build_some", build_some)
    async with asyncio.timeout(10):
        await world.coordinator.abort_migration(migration.id)
    assert await world.fingerprint(journal=False) == before


@contextlib.asynccontextmanager
async def _writing(
    world: World, tenant: UUID, side: str = "source"
) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of an application that has written an event and stays open."""
    connection = await world.connect(side, application_name="nightly-report")
    await connection.execute("begin")
    await insert(connection, tenant, side=side)
    await connection.fetch("select 'secret'")
    yield connection
    if not connection.is_closed():
        await connection.execute("rollback")


async def _message(world: World, migration: Migration) -> str | None:
    message: str | None = await world.control.fetchval(
        "select error_message from tenant_migrations where id = $1", migration.id
    )
    return message


async def _is_silent(world: World, migration: Migration, said: str) -> bool:
    message = await _message(world, migration)
    return not (message or "").startswith(said[:20])


@contextlib.contextmanager
def _nobody(how: str) -> Iterator[str]:
    """A DSN where nobody listens, or nobody answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if how == "silent":
            listening.listen(100)
        yield f"postgresql://nobody:x@127.0.0.1:{listening.getsockname()[1]}/nothing"


async def test_a_pause_at_the_moment_when_all_connections_are_open_leaves_none_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were opened while the driver looked whether somebody wants a pause."""
    await world.seed(5)
    migration = await world.dual_write()
    await world.coordinator.close()
    opened: list[DriverConnections] = []
    opening, looked, may = asyncio.Event(), asyncio.Event(), asyncio.Event()
    open_all, look = DriverConnections.open, requests.is_paused_within

    async def open_slowly(*arguments: Any) -> DriverConnections:
        opening.set()
        await looked.wait()
        opened.append(await open_all(*arguments))
        may.set()
        return opened[0]

    async def look_slowly(*arguments: Any) -> bool:
        found = await look(*arguments)
        if found:
            looked.set()
            await may.wait()
            await asyncio.sleep(0.01)
        return found

    monkeypatch.setattr(DriverConnections, "open", open_slowly)
    monkeypatch.setattr(requests, "is_paused_within", look_slowly)
    here = await world.process()
    here.coordinator._drivers.start(await here.migrations.get(migration.id))
    await asyncio.wait_for(opening.wait(), 10)
    await here.migrations.request_pause(migration.id, None)
    await world.reach(migration, "paused")
    await asyncio.gather(*here.coordinator._drivers._driving)
    [left] = opened
    assert left.control.is_closed()
    assert left.target.connection.is_closed()
