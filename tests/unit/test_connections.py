"""Connection strings: every part survives, and no password is ever printed."""

from __future__ import annotations

import pickle
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from eventsource.connections import ConnectionParameters, build_dsn, connection_parameters, redact
from eventsource.errors import ConnectionDetailsError
from eventsource.hosts import hosts_of

SECRET = "p@ss:w/o?r#d% +'\"é"


def test_every_part_of_an_address_survives_quoting() -> None:
    dsn = build_dsn(
        address=("db.example", 5433),
        user="app user",
        password=SECRET,
        database="my/db ?",
        parameters={"sslmode": "verify-full", "sslrootcert": "/etc/my certs/root.crt"},
    )
    parts = urlsplit(dsn)
    assert (parts.hostname, parts.port) == ("db.example", 5433)
    assert unquote(parts.username or "") == "app user"
    assert unquote(parts.password or "") == SECRET
    assert unquote(parts.path[1:]) == "my/db ?"
    assert parse_qs(parts.query) == {
        "sslmode": ["verify-full"],
        "sslrootcert": ["/etc/my certs/root.crt"],
    }
    assert "+" not in dsn, "a plus sign is no space in a libpq URI"


def test_a_unix_socket_is_named_by_its_directory() -> None:
    dsn = build_dsn(
        address="/run/my db/.s.PGSQL.5433", user="app", password=None, database="events"
    )
    assert dsn == "postgresql://app@/events?host=%2Frun%2Fmy%20db&port=5433"


def test_an_ipv6_host_is_bracketed() -> None:
    dsn = build_dsn(address=("::1", 5432), user="app", password=None, database="events")
    assert dsn == "postgresql://app@[::1]:5432/events"


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


def test_parameters_never_print_the_password() -> None:
    dsn = build_dsn(address=("db", 5432), user="app", password=SECRET, database="events")
    parameters = ConnectionParameters(dsn)
    for text in (repr(parameters), str(parameters), f"{parameters}", repr([parameters])):
        assert "***" in text
        assert "ss" not in text.partition("***")[2].partition("@")[0]
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


async def test_tls_files_come_from_the_pools_own_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLCERT", "/env/client.crt")
    pool = FakePool(FakeKnown(), "postgresql://app@db/events?sslrootcert=%2Fdsn%2Froot.crt")
    found = await connection_parameters(pool)  # type: ignore[arg-type]
    assert parse_qs(urlsplit(found.dsn).query) == {
        "sslmode": ["verify-full"],
        "sslrootcert": ["/dsn/root.crt"],
        "sslcert": ["/env/client.crt"],
    }


async def test_session_settings_travel_as_startup_options() -> None:
    known = FakeKnown(
        sslmode=FakeMode("disable"),
        server_settings={
            "application_name": "shop",
            "search_path": "a b,c",
            "jit": "off",
            "options": "-c geqo=off",
        },
    )
    found = await connection_parameters(FakePool(known))  # type: ignore[arg-type]
    assert parse_qs(urlsplit(found.dsn).query) == {
        "sslmode": ["disable"],
        "options": ["-c geqo=off -c search_path=a\\ b,c -c jit=off"],
    }


@pytest.mark.parametrize(
    "pool",
    [
        FakePool(FakeKnown(password=lambda: "token")),
        FakePool(FakeKnown(), ssl=ssl.create_default_context()),
        FakePool(FakeKnown(), ssl=True),
        FakePool(FakeKnown(), "postgresql://db/events?service=mine"),
        FakePool(FakeKnown(), "postgresql://db/events?sslpassword=secret"),
        FakePool(None),
        None,
    ],
)
async def test_what_a_string_cannot_carry_asks_for_dsn(pool: Any) -> None:
    with pytest.raises(ConnectionDetailsError, match="pass dsn=") as caught:
        await connection_parameters(pool)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "options", "expected"),
    [
        ("postgresql://app:p%40ss@db/events", {}, [("db", 5432)]),
        ("postgresql://app@db:6000/events", {}, [("db", 6000)]),
        ("postgresql://app:a@b@one:1,two/events?port=7", {}, [("one", 1), ("two", 7)]),
        ("postgresql://[::1]:6000,[::2]/events", {}, [("::1", 6000), ("::2", 5432)]),
        ("postgresql:///events?host=db&port=7", {}, [("db", 7)]),
        (None, {"host": "db", "port": 6000}, [("db", 6000)]),
        (None, {"host": ["one", "two"], "port": [1, 2]}, [("one", 1), ("two", 2)]),
        # What is not told is not asked.
        ("postgresql://app@/events?host=/run/postgresql", {}, []),
        (None, {"host": "/run/postgresql"}, []),
        (None, {}, []),
        ("postgresql://app@db/events?service=mine", {}, []),
        # What is wrong is told by who connects.
        ("postgresql://app@[::1/events", {}, []),
        ("postgresql:///events?host=one,two&port=1,2,3", {}, []),
    ],
)
def test_the_hosts_of_a_pool_are_those_that_it_would_try(
    dsn: str | None,
    options: dict[str, Any],
    expected: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGHOST", "PGPORT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
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
