"""Whatever a password is, and however it was written, no message of ours has a piece of it."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from eventsource.cli.config import ConfigError, load
from eventsource.connections import ConnectionParameters, TableAddress, redact
from eventsource.dsn.reading import parse
from eventsource.errors import ConnectionDetailsError
from eventsource.hosts import hosts_of

#: Two pieces that occur nowhere else, with all that is reserved before, between and behind them.
FIRST, SECOND = "zqxj1", "wvkq2"
odd = st.text("/#@:%?& =+'\"\\[]$;,.\t" + "aé0", max_size=4)
passwords = st.builds(lambda a, b, c: f"{a}{FIRST}{b}{SECOND}{c}", odd, odd, odd)

SPELLINGS = (
    "postgresql://app:{}@db:5432/events",
    "postgresql://app:{}@db/events?sslmode=require",
    "postgresql://app:{}@/events?host=/run/pg",
    "postgresql://app:{}@one,two",
    "postgres://app@db/events?password={}",
    "postgresql://db/events?user=app&password={}&sslmode=disable",
    "postgresql://db/events?sslcert=/c&sslkey=/k&sslpassword={}",
    "host=db user=app password={} dbname=events",
    "host=db user=app password='{}' dbname=events",
    "password = '{}",
)
spellings = st.sampled_from(SPELLINGS)
odd_cases = ["s3c/", "#", "@:%?&", " = ", "'", "12/@", "%2", ":7/", "?a=b&c=", "1:2,3:4"]


def shown(text: str) -> list[str]:
    return [piece for piece in (FIRST, SECOND) if piece in text]


def everything_said(dsn: str) -> list[str]:
    """Every text that we make of a string, whether it can be read or not."""
    said = [
        repr(ConnectionParameters(dsn)), str(ConnectionParameters(dsn)),
        repr(TableAddress(dsn, "public", "e")),
    ]  # fmt: skip
    try:
        found = parse(dsn, {})
        said += [repr(found), str(found), found.place]
    except ConnectionDetailsError as error:
        said += [str(error), repr(error), str(error.__cause__), str(error.__context__)]
    return said


def read_as_a_password(dsn: str) -> bool:
    """Whether both pieces are in the password of what was read, and so nowhere else."""
    try:
        password = parse(dsn, {}).password or ""
    except ConnectionDetailsError:
        return True
    return FIRST in password and SECOND in password


@given(spellings, passwords)
@example(SPELLINGS[0], f"{FIRST}/{SECOND}")
@example(SPELLINGS[0], f"12/{FIRST}{SECOND}")
@example(SPELLINGS[4], f"{FIRST}&{SECOND}=x")
@example(SPELLINGS[7], f"{FIRST} {SECOND}=x")
@example(SPELLINGS[3], f"{FIRST}?{SECOND}")
@example(SPELLINGS[0], f"{FIRST}@/{SECOND}?0=")
def test_no_text_of_a_string_shows_a_piece_of_its_password(spelling: str, password: str) -> None:
    dsn = spelling.format(password)
    for said in everything_said(dsn):
        assert not shown(said), said


@given(spellings, passwords)
@example(SPELLINGS[1], f"/{FIRST}{SECOND}?")
@example(SPELLINGS[1], f"/{FIRST}?a=b&{SECOND}")
@example(SPELLINGS[4], f"{FIRST}&{SECOND}=x")
@example(SPELLINGS[5], f"{FIRST}&{SECOND}.a=x")
@example(SPELLINGS[6], f"{FIRST}&{SECOND}=")
def test_no_piece_of_a_password_is_taken_for_a_host_or_a_setting(
    spelling: str, password: str
) -> None:
    dsn = spelling.format(password)
    try:
        found = parse(dsn, {})
    except ConnectionDetailsError:
        return
    others = f"{found.hosts}{found.user}{found.database}{found.settings}{found.tls}"
    assert not shown(others), others
    assert not shown(str(hosts_of(None, dsn)))


@pytest.mark.parametrize("between", odd_cases)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_configuration_names_the_entry_and_nothing_of_it(
    spelling: str, between: str, tmp_path: Path
) -> None:
    dsn = spelling.format(f"{FIRST}{between}{SECOND}")
    file = tmp_path / "eventsource.toml"
    quoted = dsn.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    file.write_text(f'default_store = "a"\n[control]\ndsn = "{quoted}"\n[stores.a]\ndsn = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert not shown(str(caught.value))


@given(spellings, st.text(string.ascii_letters + "/#@:?&=+.", min_size=0, max_size=4))
def test_what_others_wrote_is_redacted_too(spelling: str, between: str) -> None:
    assume("&" not in between or "password={}" not in spelling)
    text = f"cannot use {spelling.format(FIRST + between + SECOND)}"
    assert not shown(redact(text)), redact(text)


@given(passwords)
def test_a_password_that_is_encoded_arrives_whole(password: str) -> None:
    from urllib.parse import quote

    found = parse(f"postgresql://app:{quote(password, safe='')}@db/events", {})
    assert found.password == password
    assert parse(found.uri(), {}) == found
