"""Connection strings mean what they mean to libpq; what cannot be kept is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventsource.dsn.parameters import HONOURED, REFUSED
from eventsource.dsn.reading import parse
from eventsource.dsn.value import Dsn, Host
from eventsource.errors import ConnectionDetailsError

BASE = "postgresql://app:secret@db:5433/events"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing but an empty directory of the user's."""
    return {"HOME": str(tmp_path)}


def file(home: dict[str, str], name: str, text: str = "", mode: int = 0o600) -> str:
    path = Path(home["HOME"], name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def refusal(text: str, environment: dict[str, str]) -> str:
    with pytest.raises(ConnectionDetailsError) as caught:
        parse(text, environment)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        "postgres://app:secret@db:5433/events",
        "postgresql://app@db:5433/events?password=secret",
        "postgresql://db:5433/events?user=app&password=secret",
        "postgresql:///events?host=db&port=5433&user=app&password=secret",
        "postgresql://app:secret@db:5433?dbname=events",
        "host=db port=5433 user=app password=secret dbname=events",
        "host = 'db' port=5433 user = app password='secret'\n dbname=events",
    ],
)
def test_both_forms_say_the_same(text: str, home: dict[str, str]) -> None:
    found = parse(text, home)
    assert found == parse(BASE, home)
    assert found.hosts == (Host("db", 5433),)
    assert (found.user, found.password, found.database) == ("app", "secret", "events")


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("postgresql://u@one:1,two,[::1]:3/d", [("one", 1), ("two", 5432), ("::1", 3)]),
        ("postgresql://u@one,two/d?port=7", [("one", 7), ("two", 7)]),
        ("host=one,two port=1,2 user=u", [("one", 1), ("two", 2)]),
        ("postgresql://u@%2Frun%2Fpg/d", [("/run/pg", 5432)]),
        ("postgresql://u@/d?host=/run/pg&port=6", [("/run/pg", 6)]),
        ("host=/run/pg,db user=u", [("/run/pg", 5432), ("db", 5432)]),
    ],
)
def test_every_host_is_kept_and_travels_on(
    text: str, hosts: list[tuple[str, int]], home: dict[str, str]
) -> None:
    found = parse(text, home)
    assert [(host.name, host.port) for host in found.hosts] == hosts
    assert parse(found.uri(), home) == found


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("postgresql://app:a@b@db/events", "a@b"),
        ("postgresql://app:a:b@db/events", "a:b"),
        ("postgresql://app:a#b@db/events", "a#b"),
        ("postgresql://app:a&b@db/events", "a&b"),
        ("postgresql://app:a b@db/events", "a b"),
        ("postgresql://app:a+b@db/events", "a+b"),
        ("postgresql://app:a%2Fb%3F@db/events", "a/b?"),
        (r"host=db user=app password='it\'s \\ here' dbname=events", "it's \\ here"),
        (r"host=db user=app password=it\ is dbname=events", "it is"),
    ],
)
def test_odd_passwords_arrive_as_they_are(text: str, password: str, home: dict[str, str]) -> None:
    found = parse(text, home)
    assert (found.password, found.hosts[0].name, found.database) == (password, "db", "events")
    assert parse(found.uri(), home) == found


EVERYTHING: dict[str, tuple[str, Any]] = {
    "connect_timeout": ("7", lambda dsn: dsn.connect_timeout == 7),
    "keepalives": ("0", lambda dsn: not dsn.keepalive.on),
    "keepalives_idle": ("7", lambda dsn: dsn.keepalive.idle == 7),
    "keepalives_interval": ("7", lambda dsn: dsn.keepalive.interval == 7),
    "keepalives_count": ("7", lambda dsn: dsn.keepalive.count == 7),
    "tcp_user_timeout": ("700", lambda dsn: dsn.keepalive.user_timeout == 700),
    "sslmode": ("require", lambda dsn: dsn.tls.mode == "require"),
    "requiressl": ("1", lambda dsn: dsn.tls.mode == "require"),
    "sslrootcert": ("system", lambda dsn: dsn.tls.mode == "verify-full"),
    "sslcertmode": ("disable", lambda dsn: not dsn.tls.shows_certificate),
    "ssl_min_protocol_version": ("TLSv1.3", lambda dsn: dsn.tls.lowest == "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1.2", lambda dsn: dsn.tls.highest == "TLSv1.2"),
    "channel_binding": ("disable", lambda dsn: dsn.channel_binding == "disable"),
    "target_session_attrs": ("read-write", lambda dsn: dsn.attributes == "read-write"),
    "load_balance_hosts": ("random", lambda dsn: dsn.in_any_order),
    "application_name": ("shop", lambda dsn: dsn.application_name == "shop"),
    "fallback_application_name": ("shop", lambda dsn: dsn.application_name == "shop"),
    "options": ("-c jit=off", lambda dsn: ("options", "-c jit=off") in dsn.settings),
    "hostaddr": ("10.0.0.1", lambda dsn: dsn.hosts == (Host("db", 5433, "10.0.0.1"),)),
    "work_mem": ("5MB", lambda dsn: ("work_mem", "5MB") in dsn.settings),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_parameter_is_kept_in_a_uri(name: str, home: dict[str, str]) -> None:
    value, is_kept = EVERYTHING[name]
    assert is_kept(parse(f"{BASE}?{name}={value}", home))
    travelled = parse(parse(f"{BASE}?{name}={value}", home).uri(), home)
    # The name of an application is its own: the driver's sessions have another.
    assert name in ("application_name", "fallback_application_name", "work_mem") or is_kept(
        travelled
    )


def test_a_certificate_is_kept_with_its_key(home: dict[str, str]) -> None:
    tls = parse(f"{BASE}?sslcert=/c&sslkey=/k&sslmode=require&sslnegotiation=direct", home).tls
    assert (tls.certificate, tls.key, tls.direct) == ("/c", "/k", True)
    for half in ("sslcert", "sslkey"):
        assert "sslcert and sslkey" in refusal(f"{BASE}?{half}=/x", home)


def test_every_parameter_of_libpq_is_tried_here() -> None:
    elsewhere = {"host", "port", "dbname", "user", "password", "passfile", "service"}
    elsewhere |= {"servicefile", "sslcert", "sslkey", "sslnegotiation"}
    assert HONOURED.keys() - elsewhere <= EVERYTHING.keys()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_kept_is_refused_by_name(name: str, home: dict[str, str]) -> None:
    harmless, _ = REFUSED[name]
    for text in (f"{BASE}?{name}=hunter2", f"host=db {name}=hunter2"):
        complaint = refusal(text, home)
        assert name in complaint
        assert "hunter2" not in complaint
    for value in harmless:
        assert parse(f"{BASE}?{name}={value}", home).database == "events"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("channel_binding=require", "channel_binding"),
        ("sslcertmode=require", "sslcertmode"),
        ("gssencmode=require", "gssencmode"),
        ("client_encoding=latin1", "client_encoding"),
        ("sslmode=sometimes", "sslmode"),
        ("sslmode=verify-full", "sslrootcert"),
        ("sslrootcert=system&sslmode=require", "sslrootcert=system"),
        ("sslrootcert=system&sslmode=verify-ca", "sslrootcert=system"),
        ("ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version"),
        ("ssl_max_protocol_version=TLSv1.1", "ssl_max_protocol_version"),
        (
            "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
            "ssl_min_protocol_version",
        ),
        ("sslnegotiation=direct", "sslnegotiation"),
        ("target_session_attrs=leader", "target_session_attrs"),
        ("load_balance_hosts=yes", "load_balance_hosts"),
        ("connect_timeout=soon", "connect_timeout"),
        ("keepalives_idle=x", "keepalives_idle"),
        ("port=x", "port"),
        ("port=70000", "port"),
        ("port=1,2", "port"),
        ("hostaddr=1.1.1.1,2.2.2.2", "hostaddr"),
        ("host=@abstract", "abstract socket"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(
    query: str, named: str, home: dict[str, str]
) -> None:
    complaint = refusal(f"{BASE}?{query}", home)
    assert named in complaint
    assert "secret" not in complaint


def test_an_unknown_keyword_is_refused_and_an_unknown_name_of_a_uri_is_a_setting(
    home: dict[str, str],
) -> None:
    assert "sslmod" in refusal("host=db sslmod=require", home)
    assert ("work_mem", "5MB") in parse(f"{BASE}?work_mem=5MB", home).settings


def test_the_environment_fills_in_what_is_left_out(home: dict[str, str]) -> None:
    environment = home | {
        "PGHOST": "elsewhere",
        "PGPORT": "7",
        "PGUSER": "me",
        "PGPASSWORD": "mine",
        "PGDATABASE": "data",
        "PGSSLMODE": "require",
        "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
        "PGCONNECT_TIMEOUT": "4",
        "PGTARGETSESSIONATTRS": "read-write",
        "PGOPTIONS": "-c jit=off",
        "PGAPPNAME": "shop",
    }
    found = parse("postgresql://", environment)
    assert str(found) == "me@elsewhere:7/data"
    assert (found.password, found.tls.mode, found.tls.lowest) == ("mine", "require", "TLSv1.3")
    assert (found.connect_timeout, found.attributes) == (4, "read-write")
    assert (found.settings, found.application_name) == ((("options", "-c jit=off"),), "shop")
    full = parse(f"{BASE}?sslmode=disable&connect_timeout=9", environment)
    assert (str(full), full.password) == ("app@db:5433/events", "secret")
    assert (full.tls.mode, full.connect_timeout) == ("disable", 9)


@pytest.mark.parametrize(
    "environment",
    [
        {"PGSERVICE": "nowhere"},
        {"PGSERVICE": "other", "PGSERVICEFILE": "/does/not/exist"},
        {"PGHOSTADDR": "10.9.9.9"},
        {"PGHOST": "elsewhere"},
        {"PGKRBSRVNAME": "pg", "PGGSSLIB": "gssapi", "PGCLIENTENCODING": "latin1"},
    ],
)
def test_the_environment_does_not_harm_a_complete_string(
    environment: dict[str, str], home: dict[str, str]
) -> None:
    for text in (BASE, "host=db port=5433 user=app password=secret dbname=events"):
        assert parse(text, home | environment) == parse(text, home)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("PGREQUIREAUTH", "require_auth"),
        ("PGCHANNELBINDING", "channel_binding"),
        ("PGGSSENCMODE", "gssencmode"),
        ("PGSSLCERTMODE", "sslcertmode"),
        ("PGREQUIREPEER", "requirepeer"),
        ("PGSSLCRL", "sslcrl"),
        ("PGSSLCRLDIR", "sslcrldir"),
    ],
)
def test_safety_that_the_environment_demands_is_not_dropped(
    variable: str, name: str, home: dict[str, str]
) -> None:
    text = f"{BASE}?sslmode=verify-full&sslrootcert=system"
    complaint = refusal(text, home | {variable: "require"})
    assert variable in complaint
    assert name in complaint


def test_a_service_gives_what_the_string_does_not(home: dict[str, str]) -> None:
    text = "# mine\n[other]\nhost=no\n[mine]\nhost=db\nport=7\nuser=app\npassword=a=b #c\n[z]\n"
    place = file(home, "services", text)
    for string, environment in (
        ("postgresql://?service=mine", {"PGSERVICEFILE": place}),
        (f"service=mine servicefile={place}", {}),
        ("postgresql://", {"PGSERVICE": "mine", "PGSERVICEFILE": place}),
        ("dbname=app", {"PGSERVICE": "mine", "PGSERVICEFILE": place, "PGUSER": "not me"}),
    ):
        found = parse(string, home | environment)
        assert (str(found), found.password) == ("app@db:7/app", "a=b #c")
    assert "'nowhere'" in refusal("service=nowhere", home)
    file(home, ".pg_service.conf", "[broken]\nno pair here hunter2\n")
    complaint = refusal("service=broken", home)
    assert "line 2" in complaint
    assert "hunter2" not in complaint


def test_a_service_is_no_way_around_a_refusal(home: dict[str, str]) -> None:
    file(home, ".pg_service.conf", "[mine]\nhost=db\nsslcrl=/x\n")
    assert "sslcrl" in refusal("service=mine", home)


def test_passwords_come_from_the_password_file(home: dict[str, str]) -> None:
    text = "# all\nother:*:*:*:no\ndb:5433:ev\\:ents:app:a\\:b\\\\c\n*:*:*:me:mine\n"
    place = file(home, "passwords", text)
    named = f"host=db port=5433 dbname=ev:ents user=app passfile={place}"
    assert parse(named, home).password == "a:b\\c"
    assert parse("host=db user=me", home | {"PGPASSFILE": place}).password == "mine"
    assert parse("host=db user=you", home | {"PGPASSFILE": place}).password is None
    assert parse(f"host=db user=me passfile={place} password=own", home).password == "own"
    file(home, ".pgpass", text)
    assert parse("host=db user=me", home).password == "mine"
    file(home, ".pgpass", text, 0o644)
    assert parse("host=db user=me", home).password is None
    file(home, "passwords", text, 0o640)
    assert "chmod 0600" in refusal(named, home)


def test_hosts_with_different_passwords_are_refused(home: dict[str, str]) -> None:
    place = file(home, "passwords", "one:*:*:*:first\ntwo:*:*:*:second\n")
    complaint = refusal(f"host=one,two user=u passfile={place}", home)
    assert "same password" in complaint
    assert "first" not in complaint


def test_files_of_the_users_directory_count_as_in_libpq(home: dict[str, str]) -> None:
    roots = file(home, ".postgresql/root.crt")
    file(home, ".postgresql/postgresql.crt")
    file(home, ".postgresql/postgresql.key")
    tls = parse(f"{BASE}?sslmode=require", home).tls
    assert (tls.mode, tls.roots) == ("verify-ca", roots)
    assert tls.certificate is not None
    assert parse(f"{BASE}?sslcertmode=disable", home).tls.certificate is None
    file(home, ".postgresql/root.crl")
    assert "sslcrl" in refusal(f"{BASE}?sslmode=require", home)
    assert parse(f"{BASE}?sslmode=prefer", home).tls.mode == "prefer"


def test_of_several_hosts_the_primary_is_meant(home: dict[str, str]) -> None:
    def attributes(text: str) -> Dsn:
        return parse(text, home).for_writing()

    assert attributes("host=a user=u").attributes == "any"
    several = attributes("host=a,b user=u")
    assert several.attributes == "primary"
    assert "target_session_attrs=read-write" in several.uri(), "which the data plane knows"
    assert "default_transaction_read_only%3Doff" in several.uri()
    for standby in ("standby", "prefer-standby", "read-only"):
        with pytest.raises(ConnectionDetailsError, match="target_session_attrs"):
            attributes(f"host=a,b user=u target_session_attrs={standby}")
