"""Sessions that a process keeps for a moment between two steps of its moves."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from eventsource.connections import ConnectionParameters
from eventsource.migration import MigrationState
from eventsource.migration.connections import kept as module
from eventsource.migration.connections import session_marks
from eventsource.migration.connections.driver_connections import open_connection
from eventsource.migration.connections.kept import AT_MOST, KeptSessions
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

SETTINGS = "set statement_timeout = 0"


async def pid_of(connection: Any) -> int:
    return int(await connection.fetchval("select pg_backend_pid()"))


async def ours(world: World, side: str = "source") -> int:
    return int(
        await getattr(world, side).fetchval(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name = 'eventsource-migrate'"
        )
    )


async def test_a_session_is_as_new_when_it_is_lent_again(source_dsn: str) -> None:
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    first = await open_connection(parameters)
    pid = await pid_of(first)
    await session_marks.mark(first, 4711)
    await first.execute("select set_config('eventsource.migration', 'mine', false)")
    await first.execute("set application_name = 'other'; set lock_timeout = 1")
    await first.execute("create temporary table staged (id int); listen news")
    await kept.give_back(parameters, first)
    again = await kept.take(parameters, SETTINGS)
    assert again is not None
    assert await pid_of(again) == pid
    found = await again.fetchrow(
        "select current_setting('eventsource.migration', true) as mark,"
        " current_setting('application_name') as name, current_setting('lock_timeout') as timeout,"
        " to_regclass('pg_temp.staged') as staged, (select count(*) from pg_locks"
        " where locktype = 'advisory' and pid = pg_backend_pid()) as locks,"
        " (select count(*) from pg_listening_channels()) as channels"
    )
    assert found is not None
    assert dict(found) == {
        "mark": "", "name": "eventsource-migrate", "timeout": "0", "staged": None, "locks": 0,
        "channels": 0,
    }  # fmt: skip
    again.terminate()


async def test_its_next_user_hears_what_the_last_one_listened_to_as_well(source_dsn: str) -> None:
    """A client asks the server once for each channel; requests would be seen late."""
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    other = await asyncpg.connect(source_dsn)
    connection = await open_connection(parameters)
    for _ in range(2):
        heard = asyncio.Event()
        await connection.add_listener("news", lambda *_, heard=heard: heard.set())
        await other.execute("notify news")
        await asyncio.wait_for(heard.wait(), 5)
        await kept.give_back(parameters, connection)
        again = await kept.take(parameters, SETTINGS)
        assert again is connection
    connection.terminate()
    await other.close()


@pytest.mark.parametrize("harm", ["in a transaction", "closed", "cut off while it is kept"])
async def test_a_session_that_is_not_as_new_is_not_lent(source_dsn: str, harm: str) -> None:
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    connection = await open_connection(parameters)
    pid = await pid_of(connection)
    if harm == "in a transaction":
        await connection.execute("begin")
    elif harm == "closed":
        await connection.close()
    await kept.give_back(parameters, connection)
    other = await asyncpg.connect(source_dsn)
    await other.execute("select pg_terminate_backend($1, 5000)", pid)
    assert await kept.take(parameters, SETTINGS) is None
    await other.close()


async def test_sessions_go_after_a_moment_and_no_more_are_kept_than_a_driver_has(
    source_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.2)
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    for connection in [await open_connection(parameters) for _ in range(AT_MOST + 2)]:
        await kept.give_back(parameters, connection)
    looking = await asyncpg.connect(source_dsn)
    count = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and application_name = 'eventsource-migrate'"
    )
    assert await looking.fetchval(count) <= AT_MOST
    await until(lambda: _is(looking, count, 0), "the kept sessions to go")
    assert await kept.take(parameters, SETTINGS) is None
    await looking.close()


async def _is(connection: asyncpg.Connection, query: str, wanted: int) -> bool:
    return bool(await connection.fetchval(query) == wanted)


async def test_what_was_closed_keeps_nothing(source_dsn: str) -> None:
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    first, second = [await open_connection(parameters) for _ in range(2)]
    await kept.give_back(parameters, first)
    await kept.close()
    await kept.give_back(parameters, second)
    assert first.is_closed()
    assert second.is_closed()


async def test_a_process_that_moves_tenants_opens_few_sessions_and_leaves_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    original = open_connection

    async def counted(parameters: ConnectionParameters) -> Any:
        nonlocal opened
        opened += 1
        return await original(parameters)

    monkeypatch.setattr(
        "eventsource.migration.connections.driver_connections.open_connection", counted
    )
    await world.seed(20)
    process = await world.process()
    migration = await world.dual_write(process=process)
    done = await process.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    # A preflight has two at each database; its driver goes on with them and has one more.
    assert opened <= 12
    await process.coordinator.close()
    await asyncio.sleep(0.1)
    for side in ("source", "target", "control"):
        assert await ours(world, side) == 0


def test_an_address_is_taken_for_one_of_its_own_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, one, other = KeptSessions(), ConnectionParameters("dbname=a"), ConnectionParameters("")
    assert not kept.were_alone(one)
    kept.found_alone(one)
    assert kept.were_alone(one)
    assert not kept.were_alone(other)
    monkeypatch.setattr(module, "ALONE_SECONDS", 0.0)
    assert not kept.were_alone(one)


@pytest.mark.parametrize("meanwhile", ["closed", "cancelled"])
async def test_a_session_that_is_given_back_at_the_end_is_not_left_open(
    source_dsn: str, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """It is made as new when all are closed, or when who gives it back is cancelled."""
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    connection = await open_connection(parameters)
    asked, may = asyncio.Event(), asyncio.Event()
    reset = type(connection).reset

    async def reset_slowly(self: Any, **options: Any) -> None:
        await reset(self, **options)
        asked.set()
        await may.wait()

    monkeypatch.setattr(type(connection), "reset", reset_slowly)
    giving = asyncio.create_task(kept.give_back(parameters, connection))
    await asyncio.wait_for(asked.wait(), 5)
    if meanwhile == "closed":
        await kept.close()
        may.set()
        await giving
    else:
        giving.cancel()
        await asyncio.wait({giving})
    assert connection.is_closed()


async def test_those_who_give_back_at_the_same_time_keep_no_more_than_one_by_one(
    source_dsn: str,
) -> None:
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    opened = [await open_connection(parameters) for _ in range(AT_MOST + 2)]
    await asyncio.gather(*(kept.give_back(parameters, each) for each in opened))
    assert sum(not each.is_closed() for each in opened) == AT_MOST
    await kept.close()


async def test_a_look_that_is_under_way_when_all_are_closed_finds_none(
    source_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first does not answer, and the second is gone by then."""
    parameters, kept = ConnectionParameters(source_dsn), KeptSessions()
    opened = [await open_connection(parameters) for _ in range(2)]
    for each in opened:
        await kept.give_back(parameters, each)
    asked, may = asyncio.Event(), asyncio.Event()

    async def execute_in_vain(self: Any, *_: Any, **options: Any) -> None:
        asked.set()
        await may.wait()
        raise ConnectionResetError

    monkeypatch.setattr(type(opened[0]), "execute", execute_in_vain)
    taking = asyncio.create_task(kept.take(parameters, SETTINGS))
    await asyncio.wait_for(asked.wait(), 5)
    await kept.close()
    may.set()
    assert await taking is None
