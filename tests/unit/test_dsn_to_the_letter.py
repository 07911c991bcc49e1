"""Where a connection string and libpq's files could be read a little otherwise than libpq does."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsource.dsn.reading import parse
from eventsource.dsn.value import startup_options
from eventsource.errors import ConnectionDetailsError

BASE = "postgresql://app:secret@db:5433/events"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def file(home: dict[str, str], name: str, text: str = "") -> str:
    path = Path(home["HOME"], name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def refusal(text: str, environment: dict[str, str]) -> str:
    with pytest.raises(ConnectionDetailsError) as caught:
        parse(text, environment)
    return str(caught.value)


def test_the_string_counts_more_than_its_service_and_a_name_counts_once(
    home: dict[str, str],
) -> None:
    file(home, ".pg_service.conf", "[shop]\nhost=one\nhost=two\ndbname=books\nuser=app\n")
    found = parse("service=shop dbname=events", home)
    assert (found.hosts[0].name, found.database, found.user) == ("one", "events", "app")


def test_a_file_of_services_that_is_named_stands_for_the_users_own(home: dict[str, str]) -> None:
    file(home, ".pg_service.conf", "[shop]\nhost=one\nuser=app\n")
    given = file(home, "services", "[other]\nhost=two\n[nested]\nservice=shop\n")
    assert "none of the service files" in refusal(f"service=shop servicefile={given}", home)
    assert "line 4 of the service file" in refusal(f"service=nested servicefile={given}", home)


def test_a_password_file_that_is_not_there_has_none_and_a_directory_is_none(
    home: dict[str, str],
) -> None:
    assert parse(f"host=db user=me passfile={home['HOME']}/missing", home).password is None
    directory = Path(home["HOME"], "passwords")
    directory.mkdir(0o700)
    assert "is not a file" in refusal(f"host=db user=me passfile={directory}", home)


def test_lines_that_are_no_passwords_are_passed_over(home: dict[str, str]) -> None:
    place = file(home, "passwords", "db:5432:me\n\nlocalhost:*:*:me:local\ndb:*:*:me:mine\n")
    assert parse(f"host=db user=me passfile={place}", home).password == "mine"
    assert parse(f"host=/run/here user=me passfile={place}", home).password == "local"


def test_a_socket_beside_a_server_does_not_switch_tls_off(home: dict[str, str]) -> None:
    assert parse("host=/run/here user=me sslmode=require", home).tls.mode == "disable"
    assert parse("host=/run/here,db user=me sslmode=require", home).tls.mode == "require"


def test_a_certificate_that_must_not_be_shown_is_not(home: dict[str, str]) -> None:
    tls = parse(f"{BASE}?sslcert=/c&sslkey=/k&sslcertmode=disable", home).tls
    assert (tls.certificate, tls.key) == (None, None)
    # A key of the user's directory alone is for other connections.
    file(home, ".postgresql/postgresql.key")
    assert parse(BASE, home).tls.key is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("host=db user=me port=65536", "between 1 and 65535"),
        ("host=a,b hostaddr=10.0.0.1, user=me", "hostaddr"),
    ],
)
def test_what_no_server_has_is_refused(text: str, named: str, home: dict[str, str]) -> None:
    assert named in refusal(text, home)


@pytest.mark.parametrize("attributes", ["read-only", "standby", "prefer-standby"])
def test_nobody_writes_at_a_standby(attributes: str, home: dict[str, str]) -> None:
    with pytest.raises(ConnectionDetailsError, match=attributes):
        parse(f"{BASE}?target_session_attrs={attributes}", home).for_writing()


def test_a_role_that_reads_by_default_finds_the_primary(home: dict[str, str]) -> None:
    """The data plane looks for a session that may write."""
    uri = parse("host=a,b user=me", home).for_writing().uri()
    assert "target_session_attrs=read-write" in uri
    assert "default_transaction_read_only%3Doff" in uri


def test_a_setting_keeps_its_blanks_and_backslashes() -> None:
    assert startup_options({"search_path": "a b\\c"}) == "-c search_path=a\\ b\\\\c"
