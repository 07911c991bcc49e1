"""Several hosts in one string: both drivers find the primary, also when it is another one later."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from eventsource.connections import ConnectionParameters, TableAddress, connect
from eventsource.dataplane import Verification, VerifyConfig
from eventsource.testing import Cluster
from eventsource.testing.proxy import Proxy
from tests.support.worlds.rows_by_hand import COLUMNS, EVENTS, NEW_ID


@pytest.fixture
async def dsn(source_cluster: Cluster, source_dsn: str) -> str:
    connection = await asyncpg.connect(source_dsn)
    await connection.execute(EVENTS.format(table="e", transaction_id=NEW_ID))
    await connection.close()
    return source_dsn


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def both(dsn: str) -> None:
    """Connect with asyncpg and with the data plane."""
    parameters = ConnectionParameters(dsn)
    connection = await connect(parameters, application_name="hosts")
    await connection.close()
    table = TableAddress(dsn, "public", "e")
    config = VerifyConfig(table, table, uuid4(), COLUMNS, 0, "hash")
    await Verification.start(await config.resolved()).result()


def among(dsn: str, *hosts: str, query: str = "") -> str:
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return f"postgresql://{user}@{','.join(hosts)}{parts.path}{query}"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?target_session_attrs=read-write",
        "?target_session_attrs=primary",
        "?load_balance_hosts=random",
    ],
)
async def test_both_drivers_follow_the_primary(dsn: str, query: str) -> None:
    with Proxy(dsn) as first, Proxy(dsn) as second:
        ends = [urlsplit(proxy.dsn).netloc.rpartition("@")[2] for proxy in (first, second)]
        hosts = among(dsn, f"127.0.0.1:{closed_port()}", *ends, query=query)
        await both(hosts)
        first.refuse()
        await both(hosts)
        first.restore()
        second.refuse()
        await both(hosts)


async def test_a_silent_host_does_not_use_up_the_time_of_the_others(dsn: str) -> None:
    with socket.socket() as silent:  # accepts by the operating system's hand, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        own = urlsplit(dsn).netloc.rpartition("@")[2]
        hosts = [f"127.0.0.1:{silent.getsockname()[1]}", own]
        began = time.monotonic()
        await both(among(dsn, *hosts, query="?connect_timeout=2"))
        assert time.monotonic() - began < 25


async def test_a_role_that_reads_by_default_is_no_standby(dsn: str) -> None:
    own = urlsplit(dsn).netloc.rpartition("@")[2]
    admin = await asyncpg.connect(dsn)
    database = urlsplit(dsn).path.lstrip("/")
    await admin.execute(f'alter database "{database}" set default_transaction_read_only = on')
    await admin.close()
    await both(among(dsn, own, own, query="?target_session_attrs=primary"))
