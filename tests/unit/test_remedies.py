"""What is said to do about an error fits it; for every one it was to check the DSN."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import asyncpg
import pytest

from eventsource.cli.exits import message_of
from eventsource.connections import in_a_sentence
from eventsource.migration.errors import PreflightError
from eventsource.migration.failures import reason_of
from eventsource.migration.preflight.findings import Findings
from eventsource.remedies import remedy

WHERE = "[stores.shared] dsn"

#: Kind, what the server says, and what has to be in the remedy.
OF_A_SERVER = [
    (asyncpg.TooManyConnectionsError, "sorry, too many clients already", "max_connections"),
    (asyncpg.TooManyConnectionsError, "remaining connection slots are reserved", "end sessions"),
    (asyncpg.TooManyConnectionsError, 'too many connections for role "x"', "limit of the user"),
    (asyncpg.CannotConnectNowError, "the database system is starting up", "wait until"),
    (asyncpg.CannotConnectNowError, "the database system is shutting down", "wait until"),
    (asyncpg.CannotConnectNowError, "the database system is in recovery mode", "wait until"),
    (asyncpg.AdminShutdownError, "terminating connection", "try again"),
    (asyncpg.DiskFullError, "could not extend file", "make room on the server's disk"),
    (asyncpg.QueryCanceledError, "due to statement timeout", "statement_timeout"),
    (asyncpg.InvalidSQLStatementNameError, "prepared statement does not exist", "pooler"),
    (asyncpg.DuplicatePreparedStatementError, "prepared statement exists", "statement_cache_size"),
    (asyncpg.ReadOnlySQLTransactionError, "read-only transaction", "standby"),
]

#: Those that are about the address, too: what of it.
OF_THE_ADDRESS = [
    (asyncpg.InvalidPasswordError("password authentication failed"), "user and password"),
    (
        asyncpg.InvalidAuthorizationSpecificationError('role "x" does not exist'),
        "the user, and sslmode",
    ),
    (asyncpg.InvalidCatalogNameError('database "x" does not exist'), "the name of the database"),
    (TimeoutError(), "the firewall"),
    (socket.gaierror(-2, "Name or service not known"), "the name of the host"),
    (ConnectionRefusedError(111, "Connect call failed"), "that the server runs"),
    (ssl.SSLError("handshake failure"), "sslmode and certificates"),
    (asyncpg.TargetServerAttributeNotMatched("none"), "a primary"),
]


@pytest.mark.parametrize(("kind", "said", "named"), OF_A_SERVER)
def test_what_the_server_lacks_is_not_looked_for_in_the_address(
    kind: type[Exception], said: str, named: str
) -> None:
    error = kind(said)
    found = Findings()
    if kind is not asyncpg.TooManyConnectionsError:
        with found.unusable("the source"):
            raise error
        assert named in found.problems[0]
    for shown in (remedy(error, WHERE) or "", message_of(error), *found.problems):
        assert named in shown
        assert "check" not in shown


@pytest.mark.parametrize(("error", "named"), OF_THE_ADDRESS)
def test_of_the_address_that_part_is_named_which_may_be_wrong(error: Exception, named: str) -> None:
    said = remedy(error, WHERE) or ""
    assert f"check {WHERE}: " in said
    assert named in said
    assert named in message_of(error)


def test_a_server_that_lets_nobody_in_from_here_is_not_asked_for_another_password() -> None:
    said = 'no pg_hba.conf entry for host "10.0.0.1", user "x", database "y", no encryption'
    shown = remedy(asyncpg.InvalidAuthorizationSpecificationError(said), WHERE) or ""
    assert "pg_hba.conf" in shown
    assert "password" not in shown


def test_where_nothing_better_is_known_the_address_is_checked() -> None:
    assert remedy(OSError("Multiple exceptions"), WHERE) is None


@pytest.mark.parametrize("say", [message_of, reason_of, in_a_sentence])
@pytest.mark.parametrize(
    ("kind", "text", "further"),
    [
        (asyncpg.DiskFullError, "could not extend file", {"hint": "Check free disk space."}),
        (
            asyncpg.InsufficientPrivilegeError,
            'permission denied for database "db1"',
            {"detail": "User does not have CONNECT privilege."},
        ),
    ],
)
def test_what_a_server_says_in_several_lines_is_one_sentence(
    say: Callable[[BaseException], str],
    kind: type[asyncpg.PostgresError],
    text: str,
    further: dict[str, str],
) -> None:
    """`HINT:  Check free disk space.; make room …` stood in a line of its own, and in tables."""
    error = kind(text)
    for name, value in further.items():
        setattr(error, name, value)
    said = say(error)
    assert "\n" not in said
    assert ".;" not in said
    for each in (text, *further.values()):
        assert each.rstrip(".") in said


def test_what_init_makes_is_what_it_is_named_for() -> None:
    """A driver waited for a table of ours that somebody had dropped, and said only its name."""
    ours = asyncpg.UndefinedTableError('relation "public.eventsource_changes" does not exist')
    assert reason_of(ours).endswith("; `eventsource-migrate init` makes it again")
    guarding = asyncpg.InsufficientPrivilegeError("must be owner of function eventsource_guard_x")
    assert "`eventsource-migrate init --check` says what to grant" in reason_of(guarding)
    fences = asyncpg.UndefinedTableError('relation "public.eventsource_fences" does not exist')
    assert "until `eventsource-migrate repair` has filled it" in reason_of(fences)
    theirs = asyncpg.UndefinedTableError('relation "public.links" does not exist')
    assert "init" not in reason_of(theirs)


def test_a_session_that_was_ended_in_a_preflight_is_not_told_in_the_words_of_a_library() -> None:
    findings = Findings()
    with findings.unusable("the source's database"):
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2)")
    assert findings.problems == [
        "the source's database cannot be used: a session of ours was ended; try again"
    ]
    with pytest.raises(PreflightError) as refused:
        findings.raise_if_refused()
    assert refused.value.passes
