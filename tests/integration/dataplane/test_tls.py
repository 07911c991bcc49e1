"""TLS against a real server: what `sslmode` and its companions say holds for both drivers.

The servers of the wheel are built without TLS; Debian's have it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import asyncpg
import pytest

from eventsource.connections import ConnectionParameters, TableAddress, connect
from eventsource.dataplane import DataPlaneError, Verification, VerifyConfig
from eventsource.errors import ConnectionDetailsError
from eventsource.testing import Cluster, PostgresNotFoundError
from tests.support.authority import Authority
from tests.support.worlds.rows_by_hand import COLUMNS, EVENTS, NEW_ID

#: Which connections the server lets in, by role.
ACCESS = """
local all all scram-sha-256
hostssl all only_tls 127.0.0.1/32 scram-sha-256
hostnossl all only_plain 127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
host all postgres 127.0.0.1/32 scram-sha-256
"""
SECRET = "not-for-eyes"


@dataclass
class Server:
    """A server with TLS, and the files to meet it with."""

    cluster: Cluster
    ours: Authority
    other: Authority
    files: dict[str, tuple[Path, Path]] = field(default_factory=dict)

    def dsn(self, role: str = "only_tls", host: str = "localhost", **parameters: Any) -> str:
        query = urlencode(parameters)
        return f"postgresql://{role}:{SECRET}@{host}:{self.cluster.port}/postgres?{query}"

    async def show(self, name: str, **settings: str) -> None:
        """Have the server show another certificate, or speak other versions, from now on."""
        certificate, key = self.files[name]
        for file, place in ((certificate, "server.crt"), (key, "server.key")):
            there = self.cluster.data_dir / place
            shutil.copyfile(file, there)
            there.chmod(0o600)
            self.cluster._account.own(there)
        admin = await asyncpg.connect(self.cluster.dsn("postgres", unix_socket=True))
        settings = {"ssl": "on", "ssl_ca_file": "ca.crt"} | {
            "ssl_max_protocol_version": "", "ssl_min_protocol_version": "TLSv1.2",
        } | settings  # fmt: skip
        for name, value in settings.items():
            await admin.execute(f"alter system set {name} = '{value}'")
        await admin.execute("select pg_reload_conf()")
        await admin.close()
        await self._wait(settings["ssl_max_protocol_version"], settings["ssl_min_protocol_version"])

    async def _wait(self, *expected: str) -> None:
        """Until the postmaster has read it: a connection made before would meet the old ones."""
        while True:
            admin = await asyncpg.connect(self.cluster.dsn("postgres", unix_socket=True))
            known = await admin.fetchrow(
                "select current_setting('ssl_max_protocol_version'),"
                " current_setting('ssl_min_protocol_version'), current_setting('ssl')"
            )
            await admin.close()
            if known is not None and tuple(known) == (*expected, "on"):
                return


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here; on Debian: apt-get install openssl")
    try:
        cluster = Cluster.start(15)
    except PostgresNotFoundError:
        pytest.skip("no PostgreSQL 15 here; on Debian: apt-get install postgresql-15")
    place = tmp_path_factory.mktemp("certificates")
    ours, other = Authority.make(place, "ours"), Authority.make(place, "other")
    with cluster:
        made = Server(cluster, ours, other)
        made.files = {
            "right": ours.sign("right", "localhost", "localhost"),
            "expired": ours.sign("expired", "localhost", "localhost", days=-1),
            "elsewhere": ours.sign("elsewhere", "db.example", "db.example"),
            "foreign": other.sign("foreign", "localhost", "localhost"),
            "client": ours.sign("client", "certified"),
            "old client": ours.sign("old-client", "certified", days=-1),
            "impostor": other.sign("impostor", "certified"),
        }
        for name, text in (("ca.crt", ours.certificate.read_text()), ("pg_hba.conf", ACCESS)):
            there = cluster.data_dir / name
            there.write_text(text)
            cluster._account.own(there)
        yield made


@pytest.fixture(autouse=True)
async def shown(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The right certificate, and an empty directory of the user's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    admin = await asyncpg.connect(server.cluster.dsn("postgres", unix_socket=True))
    if await admin.fetchval("select to_regclass('e') is null"):
        await admin.execute(EVENTS.format(table="e", transaction_id=NEW_ID))
        for role in ("only_tls", "only_plain", "certified"):
            await admin.execute(f"create role {role} login superuser password '{SECRET}'")
    await admin.close()
    await server.show("right")


async def both(dsn: str) -> bool:
    """Connect with asyncpg and with the data plane; whether asyncpg's connection is encrypted."""
    connection = await connect(ConnectionParameters(dsn), application_name="tls")
    encrypted: bool = await connection.fetchval(
        "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    )
    await connection.close()
    await by_the_data_plane(dsn)
    return encrypted


async def by_the_data_plane(dsn: str) -> None:
    table = TableAddress(dsn, "public", "e")
    config = VerifyConfig(table, table, uuid4(), COLUMNS, 0, "hash")
    await Verification.start(await config.resolved()).result()


async def neither(dsn: str) -> tuple[str, str]:
    """What both say that refuse to connect; no password in it."""
    with pytest.raises((OSError, asyncpg.PostgresError, ConnectionDetailsError)) as first:
        await connect(ConnectionParameters(dsn), application_name="tls")
    with pytest.raises((DataPlaneError, ConnectionDetailsError)) as second:
        await by_the_data_plane(dsn)
    for said in (first, second):
        assert SECRET not in f"{said.value!r}{said.value}"
    return str(first.value), str(second.value)


@pytest.mark.parametrize(
    ("role", "encrypted"),
    [
        ("only_tls", dict.fromkeys(("allow", "prefer", "require"), True)),
        ("only_plain", dict.fromkeys(("disable", "allow", "prefer"), False)),
        ("postgres", {"disable": False, "allow": False, "prefer": True, "require": True}),
    ],
)
async def test_every_mode_does_what_it_says(
    server: Server, role: str, encrypted: dict[str, bool]
) -> None:
    for mode in ("disable", "allow", "prefer", "require"):
        dsn = server.dsn(role, sslmode=mode)
        if role == "postgres":
            dsn = dsn.replace(SECRET, server.cluster.password)
        if mode in encrypted:
            assert await both(dsn) is encrypted[mode], mode
        else:
            assert all("pg_hba.conf" in said for said in await neither(dsn)), mode
    assert (await both(server.dsn())) is True, "preferred is the default"


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_the_right_certificate_is_trusted(server: Server, mode: str) -> None:
    assert await both(server.dsn(sslmode=mode, sslrootcert=server.ours.certificate))


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
@pytest.mark.parametrize("certificate", ["foreign", "expired"])
async def test_a_certificate_that_is_not_right_is_refused(
    server: Server, mode: str, certificate: str
) -> None:
    await server.show(certificate)
    await neither(server.dsn(sslmode=mode, sslrootcert=server.ours.certificate))
    # Without a root certificate nothing is promised but that nobody listens.
    assert await both(server.dsn(sslmode="require"))


async def test_only_verify_full_asks_for_the_name(server: Server) -> None:
    await server.show("elsewhere")
    ca = server.ours.certificate
    assert await both(server.dsn(sslmode="verify-ca", sslrootcert=ca))
    await neither(server.dsn(sslmode="verify-full", sslrootcert=ca))
    # The name is compared that the string has, whatever address stands beside it.
    assert await both(
        server.dsn(host="db.example", hostaddr="127.0.0.1", sslmode="verify-full", sslrootcert=ca)
    )
    await server.show("right")
    await neither(
        server.dsn(host="db.example", hostaddr="127.0.0.1", sslmode="verify-full", sslrootcert=ca)
    )
    await neither(server.dsn(host="127.0.0.1", sslmode="verify-full", sslrootcert=ca))


async def test_a_client_shows_its_certificate(server: Server, tmp_path: Path) -> None:
    def dsn(name: str, **more: Any) -> str:
        certificate, key = server.files[name]
        return server.dsn(
            "certified", sslmode="verify-full", sslrootcert=server.ours.certificate,
            sslcert=certificate, sslkey=key, **more,
        )  # fmt: skip

    assert await both(dsn("client"))
    for name in ("old client", "impostor"):
        await neither(dsn(name))
    await neither(dsn("client", sslcertmode="disable"))
    nothing = server.dsn("certified", sslmode="require")
    await neither(nothing)
    own = tmp_path / ".postgresql"
    own.mkdir()
    certificate, key = server.files["client"]
    shutil.copy(certificate, own / "postgresql.crt")
    shutil.copy(key, own / "postgresql.key")
    assert await both(nothing), "the user's own files count as in libpq"
    await neither(f"{nothing}&sslcertmode=disable")


async def test_system_roots_are_trusted_for_a_full_check_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = server.dsn(sslrootcert="system")
    await neither(dsn)
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ours.certificate))
    assert await both(dsn)
    assert await both(server.dsn(sslrootcert="system", sslmode="verify-full"))
    for mode in ("prefer", "require", "verify-ca"):
        for said in await neither(server.dsn(sslrootcert="system", sslmode=mode)):
            assert "sslrootcert=system" in said
    await server.show("elsewhere")
    await neither(dsn)


async def test_the_versions_of_the_string_are_kept(server: Server) -> None:
    old = {"ssl_max_protocol_version": "TLSv1.2"}
    new = {"ssl_min_protocol_version": "TLSv1.3"}
    for server_speaks, refused in ((old, new), (new, old)):
        await server.show("right", **server_speaks)
        assert await both(server.dsn(sslmode="require", **server_speaks))
        assert await both(server.dsn(sslmode="require"))
        await neither(server.dsn(sslmode="require", **refused))


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert"])
async def test_files_that_cannot_be_used_are_named(
    server: Server, name: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    more = {"sslkey": broken} if name == "sslcert" else {}
    for path in (broken, tmp_path / "nowhere.pem"):
        parameters: dict[str, Any] = {name: path, **more}
        dsn = server.dsn(sslmode="require", **parameters)
        assert all(str(path) in said for said in await neither(dsn))
