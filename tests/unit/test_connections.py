"""Connection strings: every part survives, and no password is ever printed."""

from __future__ import annotations

import os
import pickle
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from eventsource.connections import (
    ConnectionParameters,
    TableAddress,
    connection_parameters,
    redact,
)
from eventsource.dsn.value import Dsn, Tls
from eventsource.errors import ConnectionDetailsError, CredentialsError
from eventsource.hosts import hosts_of

SECRET = "p@ss:w/o?r#d% +'\"é"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:hunter2@db/events",
        "could not connect to postgres://app:hunter2@db:5432/events?sslmode=require today",
        "postgresql://app:hunter2@home@db/events",
        "postgresql://app:x/hunter2@db/events",
        "host=db user=app password=hunter2 dbname=events",
        "host=db password = 'hunter2 \\' and more hunter2' user=app",
        "postgresql://app@db/events?password=hunter2&sslmode=require",
        "postgresql://app@db/events?sslpassword=hunter2",
        "Password=hunter2",
    ],
)
def test_redact_hides_every_password(text: str) -> None:
    hidden = redact(text)
    assert "hunter2" not in hidden
    assert "***" in hidden


def test_redact_leaves_everything_else() -> None:
    text = "postgresql://app@db:5432/events: password authentication failed"
    assert redact(text) == text


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://app:{quote(SECRET, safe='')}@db/events",
        "postgresql://app:hunter2 with blanks@db/events",
        "postgresql://app:hun/ter2@db/events",
        "host=db user=app password='hunter2",
        "host=db user=app password=hunter2 dbname=events",
    ],
)
def test_parameters_never_print_the_password(dsn: str) -> None:
    parameters = ConnectionParameters(dsn, password="hunter3")
    table = TableAddress(dsn, "public", "events", "hunter3")
    for text in (repr(parameters), str(parameters), f"{parameters}", repr([parameters, table])):
        assert "hunter" not in text
        assert "ter2" not in text
        assert SECRET not in unquote(text)
    assert pickle.loads(pickle.dumps(parameters)) == parameters


class FakeMode:
    def __init__(self, name: str) -> None:
        self.name = name


class FakeKnown:
    def __init__(self, **changes: Any) -> None:
        self.user = "app"
        self.password: Any = "secret"
        self.database = "events"
        self.sslmode = FakeMode("verify_full")
        self.ssl_negotiation = "postgres"
        self.server_settings: Mapping[str, str] | None = None
        vars(self).update(changes)


class FakePool:
    """What connection_parameters reads of a pool, with a connection that never was."""

    def __init__(self, known: Any, dsn: str | None = None, **options: Any) -> None:
        self._connect_args = [dsn]
        self._connect_kwargs = options
        self._params = known
        self._addr = ("db", 5432)

    def acquire(self) -> FakePool:
        return self

    async def __aenter__(self) -> FakePool:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


async def resolved(pool: Any) -> Dsn:
    return await (await connection_parameters(pool)).resolve()


async def test_tls_files_come_from_the_pools_own_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLCERT", "/env/client.crt")
    monkeypatch.setenv("PGSSLKEY", "/env/client.key")
    pool = FakePool(FakeKnown(), "postgresql://app@db/events?sslrootcert=%2Fdsn%2Froot.crt")
    assert (await resolved(pool)).tls == Tls(
        "verify-full", "/dsn/root.crt", "/env/client.crt", "/env/client.key"
    )


async def test_nothing_of_a_pools_string_is_dropped() -> None:
    query = "sslrootcert=/r&ssl_min_protocol_version=TLSv1.3&connect_timeout=4&keepalives_idle=9"
    found = await resolved(FakePool(FakeKnown(), f"postgresql://app@db/events?{query}"))
    assert (found.tls.lowest, found.connect_timeout, found.keepalive.idle) == ("TLSv1.3", 4, 9)
    for name in ("sslcrl", "sslcrldir", "require_auth"):
        pool = FakePool(FakeKnown(), f"postgresql://app@db/events?sslrootcert=/r&{name}=x")
        with pytest.raises(ConnectionDetailsError, match=name):
            await resolved(pool)


@pytest.mark.parametrize(
    "pool",
    [
        ("postgresql://app@one:1,db,three:3/events?sslrootcert=/r", {}),
        ("postgresql://app@/events?sslrootcert=/r", {"host": ["one", "db"], "port": [1, 5432]}),
        ("postgresql://app@elsewhere:9/events?sslrootcert=/r", {"host": ["one", "db"]}),
    ],
)
async def test_all_hosts_of_a_pool_are_kept(pool: tuple[str, dict[str, Any]]) -> None:
    found = await resolved(FakePool(FakeKnown(), pool[0], **pool[1]))
    assert "db" in [host.name for host in found.hosts]
    assert found.hosts[0].name == "one"
    assert found.attributes == "primary", "of several hosts the one that takes writes"


async def test_a_pool_that_is_connected_elsewhere_is_believed() -> None:
    pool = FakePool(FakeKnown(), "postgresql://app@other:1/events?sslrootcert=/r")
    assert [str(host) for host in (await resolved(pool)).hosts] == ["db:5432"]


async def test_session_settings_travel_as_startup_options() -> None:
    known = FakeKnown(sslmode=FakeMode("disable"))
    settings = {
        "application_name": "shop",
        "search_path": "a b,c",
        "jit": "off",
        "options": "-c geqo=off",
    }
    found = await resolved(FakePool(known, server_settings=settings))
    assert parse_qs(urlsplit(found.uri()).query)["options"] == [
        "-c geqo=off -c search_path=a\\ b,c -c jit=off"
    ]


@pytest.mark.parametrize(
    "pool",
    [
        FakePool(FakeKnown(), ssl=ssl.create_default_context()),
        FakePool(FakeKnown(), ssl=True),
        FakePool(None),
        FakePool(FakeKnown(), "postgresql://db/events?target_session_attrs=standby&sslrootcert=/r"),
        None,
    ],
)
async def test_what_a_string_cannot_carry_asks_for_dsn(pool: Any) -> None:
    with pytest.raises(ConnectionDetailsError, match="pass dsn="):
        await resolved(pool)


async def test_a_password_may_be_a_function_that_is_asked_each_time() -> None:
    tokens = iter(["first", "second", "third", "fourth"])

    async def later() -> str:
        return next(tokens)

    known = FakeKnown(sslmode=FakeMode("prefer"), password=later)
    of_a_pool = await connection_parameters(FakePool(known, password=later))  # type: ignore[arg-type]
    given = await connection_parameters(None, lambda: f"postgresql://app:{next(tokens)}@db/events")
    beside = await connection_parameters(None, "postgresql://app:no@db/events", later)
    assert (await of_a_pool.resolve()).password == "first"
    assert (await of_a_pool.resolve()).password == "second"
    assert (await given.resolve()).password == "third"
    assert (await beside.resolve()).password == "fourth"


@pytest.mark.parametrize("told", [ValueError("hunter2 is wrong"), None, 7])
async def test_a_function_that_fails_is_named_and_not_quoted(told: object) -> None:
    def password() -> Any:
        if isinstance(told, Exception):
            raise told
        return told

    with pytest.raises(CredentialsError, match="password=") as caught:
        await ConnectionParameters("postgresql://app@db/events", password).resolve()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "options", "expected"),
    [
        ("postgresql://app:p%40ss@db/events", {}, [("db", 5432)]),
        ("postgresql://app@db:6000/events", {}, [("db", 6000)]),
        ("postgresql://app:a@b@one:1,two/events", {}, [("one", 1), ("two", 5432)]),
        ("postgresql://[::1]:6000,[::2]/events", {}, [("::1", 6000), ("::2", 5432)]),
        ("postgresql:///events?host=db&port=7", {}, [("db", 7)]),
        (None, {"host": "db", "port": 6000}, [("db", 6000)]),
        (None, {"host": ["one", "two"], "port": [1, 2]}, [("one", 1), ("two", 2)]),
        # What is not told is not asked.
        ("postgresql://app@/events?host=/run/postgresql", {}, []),
        (None, {"host": "/run/postgresql"}, []),
        (None, {}, []),
        ("postgresql://app@/events?service=mine", {}, []),
        # What is wrong is told by who connects.
        ("postgresql://app@[::1/events", {}, []),
        ("postgresql:///events?host=one,two&port=1,2,3", {}, []),
    ],
)
def test_the_hosts_of_a_pool_are_those_that_it_would_try(
    dsn: str | None,
    options: dict[str, Any],
    expected: list[tuple[str, int]],
) -> None:
    pool = FakePool(FakeKnown(), dsn, **options)
    assert hosts_of(pool) == expected  # type: ignore[arg-type]
    if dsn is not None:
        assert hosts_of(None, dsn) == expected


def test_hosts_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db")
    monkeypatch.setenv("PGPORT", "6000")
    assert hosts_of(FakePool(FakeKnown())) == [("db", 6000)]  # type: ignore[arg-type]


def test_a_pool_that_connects_in_a_way_of_its_own_does_not_tell() -> None:
    pool = FakePool(FakeKnown(), "postgresql://db/events")
    pool._connect = lambda: None  # type: ignore[attr-defined]
    assert hosts_of(pool) == []  # type: ignore[arg-type]
