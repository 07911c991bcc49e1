"""Sessions of the data plane that a process keeps for a moment, and how many a small pass opens."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from eventsource.dataplane import KeptSessions, PassSession
from tests.support.waiting import until
from tests.support.worlds.rows_by_hand import TARGET_TABLE, World, bare_world

__all__ = ["bare_world"]

#: Longer than any test.
LONG = 600.0

_SESSIONS = """
select a.pid, coalesce((select count(*) from pg_locks l where l.pid = a.pid
                        and l.locktype = 'advisory'), 0)::int as marks
from pg_stat_activity a
where a.datname = current_database() and a.application_name = 'eventsource-migrate' order by 1
"""


async def sessions(world: World) -> dict[int, int]:
    """Those of the data plane at the target: how many marks each has."""
    return {row["pid"]: row["marks"] for row in await world.target.fetch(_SESSIONS)}


@pytest.fixture
async def kept() -> AsyncIterator[KeptSessions]:
    kept = KeptSessions(LONG)
    yield kept
    await kept.close()


async def test_a_pass_of_one_chunk_opens_one_connection_for_chunks(world: World) -> None:
    """All of jobs' connections used to be opened before the first row was read."""
    await world.append(5)
    session = await world.open(kept=(kept := KeptSessions(LONG)), jobs=3)
    assert len(await sessions(world)) == 1
    await session.run(await world.bulk())
    # Its own, one that writes chunks and one that proves them.
    assert len(await sessions(world)) == 3
    await kept.close()


async def test_further_connections_are_opened_for_chunks_that_find_none_free(
    world: World, kept: KeptSessions
) -> None:
    await world.append(40)
    session = await world.open(kept=kept, jobs=3, chunk_rows=1)
    await session.run(await world.bulk())
    assert 3 < len(await sessions(world)) <= 5
    await session.close()
    await world.assert_moved()


async def test_a_kept_session_has_nothing_of_its_last_user_and_serves_the_next(
    world: World, kept: KeptSessions
) -> None:
    await world.append(5)
    session = await world.open(kept=kept)
    opened = await sessions(world)
    assert list(opened.values()) == [1]
    await session.close()
    assert await sessions(world) == dict.fromkeys(opened, 0)
    again = await world.open(kept=kept)
    assert set(await sessions(world)) == set(opened)
    assert (await again.run(await world.bulk())).rows == 5
    await again.close()
    await world.assert_moved()


async def test_a_kept_session_has_no_setting_of_its_last_user(
    world: World, kept: KeptSessions
) -> None:
    """Those that prove plan without sorting, those that write chunks plan as the server does."""
    await world.target.execute(f"""
        create table settings (value text);
        create function note_settings() returns trigger language plpgsql as $$
        begin
            insert into settings
            select name from pg_settings where name like 'enable%' and source = 'session';
            return new;
        end $$;
        create trigger note_settings before insert on "{TARGET_TABLE}"
            for each row execute function note_settings()
    """)
    await world.append(5)
    for _ in range(3):
        await world.target.execute(f'truncate "{TARGET_TABLE}", eventsource_copied_ranges')
        session = await world.open(kept=kept)
        await session.run(await world.bulk())
        await session.close()
        await world.assert_moved()
    assert await world.target.fetch("select distinct value from settings") == []


async def test_a_session_whose_server_ended_it_is_not_lent_again(
    world: World, kept: KeptSessions
) -> None:
    await world.append(5)
    await (await world.open(kept=kept)).close()
    for pid in await sessions(world):
        await world.target.execute("select pg_terminate_backend($1, 5000)", pid)
    again = await world.open(kept=kept)
    assert (await again.run(await world.bulk())).rows == 5
    await again.close()


async def test_a_session_that_answers_no_more_is_not_waited_for(
    world: World, kept: KeptSessions
) -> None:
    await world.append(5)
    await (await world.open(kept=kept)).close()
    [silent] = await sessions(world)
    os.kill(silent, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            again = await world.open(kept=kept)
    finally:
        os.kill(silent, signal.SIGCONT)
    assert (await again.run(await world.bulk())).rows == 5
    await again.close()


async def test_sessions_are_kept_for_a_moment_and_not_after_the_end(world: World) -> None:
    kept = KeptSessions(0.1)
    await (await world.open(kept=kept)).close()

    async def none_left() -> bool:
        return not await sessions(world)

    await until(none_left, "the sessions are gone")
    await kept.close()
    session: PassSession = await world.open(kept=kept)
    await session.close()
    await until(none_left, "the sessions are gone")


async def test_a_session_that_failed_is_not_kept(world: World, kept: KeptSessions) -> None:
    await world.append(5)
    session = await world.open(kept=kept)
    await world.target.execute("update eventsource_copy_progress set owner = gen_random_uuid()")
    with pytest.raises(Exception, match="driver"):
        await session.run(await world.bulk())
    await session.close()

    async def none_left() -> bool:
        return not await sessions(world)

    await until(none_left, "the sessions are gone")
