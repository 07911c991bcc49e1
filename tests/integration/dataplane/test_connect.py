"""How the data plane connects: `sslmode` as in libpq, and failures that show no password."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import asyncpg
import pytest

from eventsource.connections import TableAddress
from eventsource.dataplane import DataPlaneError, Verification, VerifyConfig
from eventsource.testing import Cluster
from tests.support.tls_front import CERTIFICATES, TlsFront
from tests.support.worlds.rows_by_hand import COLUMNS, EVENTS, NEW_ID

CA = str(CERTIFICATES / "ca.pem")
SELF_SIGNED = str(CERTIFICATES / "selfsigned.pem")
IDENTITY = {"sslcert": str(CERTIFICATES / "client.pem"), "sslkey": str(CERTIFICATES / "client.key")}


@dataclass
class Server:
    """An empty event table on a server, reached through a front of the test's choice."""

    cluster: Cluster
    database: str

    def front(self, certificate: str, **options: Any) -> AbstractAsyncContextManager[TlsFront]:
        return TlsFront(self.cluster.port, certificate, **options).serving()

    def dsn(self, front: TlsFront, host: str = "localhost", **parameters: str) -> str:
        user = f"postgres:{quote(self.cluster.password)}"
        query = urlencode(parameters)
        return f"postgresql://{user}@{host}:{front.address}/{self.database}?{query}"


@pytest.fixture
async def server(source_cluster: Cluster, source_dsn: str) -> Server:
    connection = await asyncpg.connect(source_dsn)
    await connection.execute(EVENTS.format(table="e", transaction_id=NEW_ID))
    await connection.close()
    return Server(source_cluster, urlsplit(source_dsn).path.lstrip("/"))


async def connect(dsn: str) -> None:
    """Compare an empty table with itself: two connections, and nothing else to it."""
    table = TableAddress(dsn, "public", "e")
    config = VerifyConfig(table, table, uuid4(), COLUMNS, 0, "hash")
    assert (await Verification.start(config).result()).source_event_count == 0


async def refusal(dsn: str) -> str:
    with pytest.raises(DataPlaneError) as caught:
        await connect(dsn)
    assert caught.value.kind == "connect"
    assert caught.value.detail["side"] == "source"
    password = urlsplit(dsn).password
    assert password is None or password not in str(caught.value) + repr(caught.value)
    return str(caught.value)


async def test_a_server_with_tls_takes_every_mode(server: Server) -> None:
    async with server.front("server") as front:
        for mode in ("disable", "allow", "prefer", "require"):
            await connect(server.dsn(front, sslmode=mode))
        for mode in ("require", "verify-ca", "verify-full"):
            await connect(server.dsn(front, sslmode=mode, sslrootcert=CA))


async def test_only_verify_full_looks_at_the_host(server: Server) -> None:
    async with server.front("server") as front:
        await connect(server.dsn(front, "127.0.0.1", sslmode="verify-ca", sslrootcert=CA))
        wrong = server.dsn(front, "127.0.0.1", sslmode="verify-full", sslrootcert=CA)
        assert "not valid for" in await refusal(wrong)


async def test_an_unknown_authority_is_refused_from_verify_ca_on(server: Server) -> None:
    async with server.front("selfsigned") as front:
        await connect(server.dsn(front, sslmode="require"))
        for mode in ("require", "verify-ca", "verify-full"):
            dsn = server.dsn(front, sslmode=mode, sslrootcert=CA)
            assert "certificate" in await refusal(dsn)


async def test_a_self_signed_certificate_can_be_its_own_root(server: Server) -> None:
    async with server.front("selfsigned") as front:
        await connect(server.dsn(front, sslmode="verify-full", sslrootcert=SELF_SIGNED))
        wrong = server.dsn(front, "127.0.0.1", sslmode="verify-full", sslrootcert=SELF_SIGNED)
        assert "not valid for" in await refusal(wrong)


async def test_a_server_that_demands_tls_gets_it_unless_forbidden(server: Server) -> None:
    async with server.front("server", access="tls only") as front:
        for mode in ("allow", "prefer", "require"):
            await connect(server.dsn(front, sslmode=mode))
        assert "no encryption" in await refusal(server.dsn(front, sslmode="disable"))


async def test_a_server_that_refuses_tls_is_reached_below_require(server: Server) -> None:
    async with server.front("server", access="plain only") as front:
        for mode in ("disable", "allow", "prefer"):
            await connect(server.dsn(front, sslmode=mode))
        assert "SSL encryption" in await refusal(server.dsn(front, sslmode="require"))


async def test_a_client_certificate_is_shown_when_asked_for(server: Server) -> None:
    async with server.front("server", client_authority=True) as front:
        await connect(server.dsn(front, sslmode="verify-full", sslrootcert=CA, **IDENTITY))
        await refusal(server.dsn(front, sslmode="require"))
        half = {"sslcert": IDENTITY["sslcert"]}
        assert "sslkey" in await refusal(server.dsn(front, sslmode="require", **half))


async def test_parameters_that_cannot_be_used_are_named(source_dsn: str) -> None:
    async def complaint(**parameters: str) -> str:
        return await refusal(f"{source_dsn}?{urlencode(parameters)}")

    missing = await complaint(sslmode="verify-ca", sslrootcert="/nowhere/root.pem")
    assert "/nowhere/root.pem" in missing
    assert "sslrootcert" in await complaint(sslmode="verify-full")
    assert "sslmode" in await complaint(sslmode="sometimes")
    assert "sslcrl" in await complaint(sslcrl="/x")


async def test_a_server_without_tls_is_refused_by_require(source_dsn: str) -> None:
    assert "TLS" in await refusal(f"{source_dsn}?sslmode=require")


async def test_failures_to_connect_say_why(source_cluster: Cluster) -> None:
    wrong = source_cluster.dsn(password="not-the-password")
    assert "password authentication failed" in await refusal(wrong)
    assert "does not exist" in await refusal(source_cluster.dsn("no_such_database"))
    secret = "postgresql://u:hidden-secret@"
    assert "refused" in await refusal(f"{secret}127.0.0.1:1/db")
    assert await refusal(f"{secret}no-such-host.invalid/db")
    assert "port" in await refusal(f"{secret}h:port/db")
    assert "URI" in await refusal("host=db password=hidden-secret")


async def test_a_unix_socket_needs_no_tls(source_cluster: Cluster) -> None:
    database = urlsplit(await source_cluster.create_database()).path.lstrip("/")
    dsn = source_cluster.dsn(database, unix_socket=True)
    with pytest.raises(DataPlaneError) as caught:
        await connect(dsn + "&sslmode=require")
    # It got as far as asking for the table.
    assert caught.value.sqlstate == "42P01"


def test_no_repr_shows_a_password() -> None:
    table = TableAddress("postgresql://u:hidden-secret@h/db", "public", "e")
    config = VerifyConfig(table, replace(table), uuid4(), COLUMNS, 0, "hash")
    assert "hidden-secret" not in repr(config)
