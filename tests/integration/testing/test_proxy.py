"""The proxy does to a connection what it says, to no other one, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from eventsource.testing import Cluster
from eventsource.testing.proxy import Proxy, Session, named
from tests.support.tls_front import CERTIFICATES, TlsFront
from tests.support.waiting import until

# What a lost connection raises in asyncpg, depending on what it was doing.
LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@pytest.fixture
async def proxy(source_dsn: str) -> AsyncIterator[Proxy]:
    async with Proxy(source_dsn) as started:
        yield started


@pytest.fixture
async def behind(source_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that does not go through the proxy, and a table."""
    connection = await asyncpg.connect(source_dsn)
    await connection.execute("create table notes (n int primary key)")
    yield connection
    await connection.close()


async def connect(proxy: Proxy, name: str = "tested") -> asyncpg.Connection:
    return await asyncpg.connect(proxy.dsn, server_settings={"application_name": name})


async def notes(behind: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await behind.fetch("select n from notes order by n")]


async def gone(behind: asyncpg.Connection, pid: int) -> None:
    """Wait until the server has ended a session."""

    async def ended() -> bool:
        return not await behind.fetchval("select true from pg_stat_activity where pid = $1", pid)

    await until(ended, f"the end of session {pid}")


async def insert_in_transaction(client: asyncpg.Connection, *numbers: int) -> None:
    async with client.transaction():
        for number in numbers:
            await client.execute("insert into notes values ($1)", number)


async def test_everything_passes_and_a_session_tells_who_it_is(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    client = await connect(proxy)
    pid = await client.fetchval("select pg_backend_pid()")
    (session,) = proxy.sessions()
    assert (session.server_pid, session.application_name) == (pid, "tested")
    assert (session.user, session.state, session.opaque) == ("postgres", "I", False)
    await client.execute("set application_name = 'renamed'")
    assert [each.number for each in proxy.sessions(named("renamed"))] == [session.number]

    big = "å" * 3_000_000
    assert await client.fetchval("select $1::text", big) == big
    await client.copy_records_to_table("notes", records=[(n,) for n in range(50_000)])
    rows = await client.fetch("select n from notes order by n")
    assert [row[0] for row in rows] == list(range(50_000))
    # A cancel request is a connection of its own.
    with pytest.raises(TimeoutError):
        await client.fetch("select pg_sleep(600)", timeout=0.2)
    assert await client.fetchval("select 1") == 1
    await client.close()
    await gone(behind, pid)
    assert not session.is_open


async def test_a_cut_is_heard_at_both_ends_and_by_nobody_else(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    client, other = await connect(proxy), await connect(proxy, "other")
    pid = client.get_server_pid()
    await client.execute("begin; insert into notes values (1)")
    waiting = asyncio.create_task(client.fetchval("select pg_sleep(600)"))
    await until(
        lambda: behind.fetchval(
            "select true from pg_stat_activity where pid = $1 and query like '%sleep%'", pid
        ),
        "the server to work on it",
    )
    assert proxy.cut(named("tested")) == 1
    with pytest.raises(LOST):
        await waiting
    # A server notices a lost client when it next reads from it.
    await behind.execute("select pg_cancel_backend($1)", pid)
    await gone(behind, pid)
    assert await other.fetchval("select count(*) from notes") == 0
    assert proxy.cut(named("nobody")) == 0
    await other.close()


async def test_what_is_delayed_comes_late_in_either_direction(proxy: Proxy) -> None:
    client, other = await connect(proxy), await connect(proxy, "other")
    proxy.delay(0.3, named("tested"))
    began = time.monotonic()
    assert await client.fetchval("select 1", timeout=30) == 1
    assert time.monotonic() - began >= 0.6
    proxy.restore()
    # With small messages held back for more to come, as TCP does when not told, each of these
    # round trips takes 40 ms or more.
    async with asyncio.timeout(10):
        for _ in range(300):
            await client.fetchval("select 1")
    await client.close()
    await other.close()


async def test_what_is_throttled_is_slow(proxy: Proxy) -> None:
    proxy.throttle(200_000, named("tested"))
    client = await connect(proxy)
    began = time.monotonic()
    assert len(await client.fetchval("select repeat('x', 200000)")) == 200_000
    assert time.monotonic() - began >= 0.9
    with pytest.raises(ValueError):
        proxy.throttle(0)
    await client.close()


async def test_what_is_stalled_arrives_when_it_is_over(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    client = await connect(proxy)
    proxy.stall()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.dsn, timeout=0.3)
    insert = asyncio.create_task(client.execute("insert into notes values (7)"))
    await asyncio.wait([insert], timeout=0.3)
    assert not insert.done()
    assert await notes(behind) == []
    proxy.restore()
    assert await insert == "INSERT 0 1"
    await client.close()


async def test_what_is_half_open_never_answers_again(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    client = await connect(proxy)
    proxy.half_open()
    insert = asyncio.create_task(client.execute("insert into notes values (7)"))
    await asyncio.wait([insert], timeout=0.3)
    assert not insert.done()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(proxy.dsn, timeout=0.3)
    proxy.restore()
    fresh = await connect(proxy)
    assert await fresh.fetchval("select count(*) from notes") == 0
    assert not insert.done()
    # The server does not hear that the client is gone.
    pid = client.get_server_pid()
    client.terminate()
    await asyncio.wait([insert])
    assert await behind.fetchval("select true from pg_stat_activity where pid = $1", pid)
    await fresh.close()


async def test_a_refused_connection_is_refused_and_open_ones_stay(proxy: Proxy) -> None:
    client = await connect(proxy)
    proxy.refuse()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(proxy.dsn)
    assert await client.fetchval("select 1") == 1
    port = proxy.port
    proxy.restore()
    assert proxy.port == port
    await (await connect(proxy)).close()
    await client.close()


async def test_a_commit_whose_reply_is_lost_has_happened(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    trap = proxy.lose_commit_reply(named("tested"), times=None)
    other = await connect(proxy, "other")
    await other.execute("begin; insert into notes values (1); commit")
    # As a simple query, and with the extended protocol.
    for number, commit in enumerate(("execute", "fetch"), 2):
        client = await connect(proxy)
        await client.execute(f"begin; insert into notes values ({number})")
        with pytest.raises(LOST):
            await getattr(client, commit)("commit")
        assert client.is_closed()
        await trap.reached(number - 1)
    with pytest.raises(LOST):
        await insert_in_transaction(await connect(proxy), 4)
    assert await notes(behind) == [1, 2, 3, 4]
    # Neither a rollback nor a commit of a failed transaction is one.
    client = await connect(proxy)
    await client.execute("begin; insert into notes values (9); rollback; begin")
    with pytest.raises(asyncpg.UniqueViolationError):
        await client.execute("insert into notes values (1)")
    assert await client.execute("commit") == "ROLLBACK"
    assert trap.hits == 3
    await client.close()
    await other.close()


async def test_only_the_commit_after_a_statement_loses_its_reply(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    trap = proxy.lose_commit_reply(statement="INSERT into NOTES")
    client = await connect(proxy)
    async with client.transaction():
        await client.fetch("select count(*) from notes")
    assert trap.hits == 0
    with pytest.raises(LOST):
        await insert_in_transaction(client, 0, 1)
    # Once is enough.
    client = await connect(proxy)
    await insert_in_transaction(client, 2)
    assert (trap.hits, await notes(behind)) == (1, [0, 1, 2])
    await client.close()


async def test_a_statement_that_commits_itself_loses_its_reply_after_its_commit(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    trap = proxy.lose_commit_reply(tag="INSERT 0 1", statement="notes", times=2)
    for statement in ("execute", "fetch"):
        client = await connect(proxy)
        async with client.transaction():
            await client.execute(f"insert into notes values ({trap.hits + 10})")
        with pytest.raises(LOST):
            await getattr(client, statement)(f"insert into notes values ({trap.hits})")
    assert await notes(behind) == [0, 1, 10, 11]


async def test_a_held_statement_waits_for_its_release(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    trap = proxy.hold_at("into notes", named("tested"))
    client, other = await connect(proxy), await connect(proxy, "other")
    await other.execute("insert into notes values (1)")
    insert = asyncio.create_task(client.execute("insert into notes values ($1)", 2))
    await trap.reached()
    assert await notes(behind) == [1]
    assert not insert.done()
    trap.release()
    assert await insert == "INSERT 0 1"
    await client.execute("insert into notes values (3)")
    assert (trap.hits, await notes(behind)) == (1, [1, 2, 3])
    with pytest.raises(TimeoutError):
        trap.wait(2, timeout=0.05)
    await client.close()
    await other.close()


async def test_a_connection_is_cut_before_a_statement(
    proxy: Proxy, behind: asyncpg.Connection
) -> None:
    asked: list[str] = []

    def second_of_a_transaction(session: Session, text: str) -> bool:
        asked.append(text)
        return len(session.transaction) == 3 and "notes" in text

    trap = proxy.cut_at(second_of_a_transaction)
    client = await connect(proxy)
    with pytest.raises(LOST):
        await insert_in_transaction(client, 1, 2)
    await trap.reached()
    await gone(behind, client.get_server_pid())
    assert await notes(behind) == []
    assert "BEGIN;" in asked


async def test_encryption_is_refused_or_left_to_the_server(
    source_dsn: str, source_cluster: Cluster
) -> None:
    front = TlsFront(source_cluster.port, "server")
    async with front.serving():
        parts = urlsplit(source_dsn)
        dsn = source_dsn.replace(f":{parts.port}", f":{front.address}")
        ca = CERTIFICATES / "ca.pem"
        async with Proxy(dsn) as plain:
            with pytest.raises(ConnectionError):
                await asyncpg.connect(f"{plain.dsn}?sslmode=require")
            client = await asyncpg.connect(f"{plain.dsn}?sslmode=prefer")
            assert [session.opaque for session in plain.sessions()] == [False]
            await client.close()
        async with Proxy(dsn, tls="pass") as passing:
            trap = passing.cut_at("select")
            client = await asyncpg.connect(f"{passing.dsn}?sslmode=verify-ca&sslrootcert={ca}")
            assert await client.fetchval("select 1") == 1
            assert [session.opaque for session in passing.sessions()] == [True]
            assert trap.hits == 0
            passing.cut()
            with pytest.raises(LOST):
                await client.fetchval("select 1")
        async with Proxy(source_dsn, tls="pass") as passing:
            # The server has no encryption and says so itself.
            client = await asyncpg.connect(f"{passing.dsn}?sslmode=prefer")
            assert await client.fetchval("select 1") == 1
            assert [session.opaque for session in passing.sessions()] == [False]
            await client.close()


def test_other_processes_connect_to_it_while_this_one_is_busy(source_cluster: Cluster) -> None:
    with Proxy(source_cluster.dsn(unix_socket=True)) as proxy:
        assert urlsplit(proxy.dsn).hostname == "127.0.0.1"
        trap = proxy.hold_at("pg_backend_pid", named("elsewhere"))
        # No event loop runs in this process at all.
        program = (
            "import asyncio, asyncpg, sys\n"
            "async def ask():\n"
            "    connection = await asyncpg.connect(sys.argv[1],"
            " server_settings={'application_name': 'elsewhere'})\n"
            "    print(await connection.fetchval('select pg_backend_pid()'))\n"
            "    await connection.close()\n"
            "asyncio.run(ask())\n"
        )
        client = subprocess.Popen(
            [sys.executable, "-c", program, proxy.dsn], stdout=subprocess.PIPE, text=True
        )
        trap.wait()
        (session,) = proxy.sessions(named("elsewhere"))
        trap.release()
        told, _ = client.communicate(timeout=60)
        assert int(told) == session.server_pid


async def test_new_connections_can_be_taken_to_another_server(
    proxy: Proxy, source_dsn: str, target_dsn: str
) -> None:
    client = await connect(proxy)
    proxy.redirect(target_dsn)
    other = await connect(proxy)
    found = [await each.fetchval("select current_database()") for each in (client, other)]
    assert found == [urlsplit(dsn).path[1:] for dsn in (source_dsn, target_dsn)]
    await client.close()
    await other.close()


async def test_a_server_that_is_gone_is_a_lost_connection(proxy: Proxy) -> None:
    stranger = proxy.dsn.replace(f":{proxy.port}", ":1")
    async with Proxy(stranger) as nowhere:
        with pytest.raises(LOST):
            await asyncpg.connect(nowhere.dsn)
        assert nowhere.sessions() == []


async def test_a_predicate_that_fails_is_told_at_the_end(source_dsn: str) -> None:
    proxy = Proxy(source_dsn).start()
    proxy.hold_at(lambda session, text: 1 / 0 > 1)
    with pytest.raises(LOST):
        await (await asyncpg.connect(proxy.dsn)).fetchval("select 1")
    with pytest.raises(ExceptionGroup) as caught:
        proxy.stop()
    assert caught.group_contains(ZeroDivisionError)
    proxy.stop()
    with pytest.raises(RuntimeError):
        proxy.cut()
