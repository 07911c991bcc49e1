"""Which errors are worth retrying, and how an error crosses processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from typing import Any

import asyncpg

from eventsource.connections import in_a_sentence, redact
from eventsource.dataplane import DataPlaneError
from eventsource.errors import ConnectionDetailsError, CredentialsError, StoreSchemaError
from eventsource.migration.errors import (
    Blocker,
    ConsistencyError,
    CutoverTimeoutError,
    InvalidStateTransitionError,
    MigrationError,
    MissingRowError,
    PreflightError,
    ProtocolVersionError,
    RoutersNotReadyError,
    StoreGoneBackError,
    StoreMismatchError,
    TargetBusyError,
)
from eventsource.migration.models import WAITING, Migration
from eventsource.sqlstates import (
    ENDED_BY_THE_SERVER,
    ENVIRONMENT_CLASSES,
    NOT_PERMITTED,
    NOT_THERE,
    PASSING_CLASSES,
    READ_ONLY,
    sqlstate_of,
)

#: A connection that is lost or cannot be made.
PASSING = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # What asyncpg says when a connection is lost at an awkward moment.
    asyncpg.InternalClientError,
    TimeoutError,
    # A file or a function of the connection string, which somebody mends.
    ConnectionDetailsError,
    CredentialsError,
)


def may_pass(error: BaseException) -> bool:
    """Whether trying again later can help."""
    if isinstance(error, DataPlaneError):
        return error.kind in ("connect", "connection_lost", "cancelled") or (
            error.kind == "sql" and (error.sqlstate or "")[:2] in PASSING_CLASSES
        )
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = str(error.sqlstate or "")
        return sqlstate[:2] in PASSING_CLASSES or sqlstate in ENDED_BY_THE_SERVER
    return isinstance(error, (*PASSING, TargetBusyError))


def may_be_mended(error: BaseException) -> bool:
    """Whether it is about the environment and says nothing about the tenant's data.

    A driver waits then: a copy of hours is not thrown away because a password was wrong for three
    seconds, or because somebody else's process has a wrong setting. A call that an operator waits
    for had better fail at once, so it asks `may_pass` alone.
    """
    if may_pass(error) or isinstance(error, (MissingRowError, StoreSchemaError)):
        return True
    sqlstate = sqlstate_of(error)
    if isinstance(error, DataPlaneError) and error.kind != "sql":
        # While a name is changed over after a failover, it may lead to the wrong server.
        return error.kind == "standby"
    return isinstance(error, (DataPlaneError, asyncpg.PostgresError)) and (
        str(sqlstate) in (NOT_PERMITTED, READ_ONLY, *NOT_THERE)
        or str(sqlstate)[:2] in ENVIRONMENT_CLASSES
    )


@contextlib.contextmanager
def concerning(side: str) -> Iterator[None]:
    """What fails in the block is about this side's database: "control", "source" or "target"."""
    try:
        yield
    except Exception as error:
        error.add_note(side)
        raise


def side_of(error: BaseException) -> str | None:
    """Which database it was, where that is known."""
    if isinstance(error, DataPlaneError):
        return error.detail.get("side")
    return next(iter(getattr(error, "__notes__", ())), None)


def reason_of(error: BaseException) -> str:
    """Why a driver waits, and what mends it where that is known; without a password."""
    # An answer that did not come in time has no text of its own.
    reason = in_a_sentence(error) or "a database does not answer"
    if sqlstate_of(error) == NOT_PERMITTED:
        # Of what is ours it knows which role made it.
        ours = "; `eventsource-migrate init --check` says what to grant to the role of the dsn"
        reason += ours if "eventsource_" in reason else "; grant it to the role of the dsn"
    # A name of ours, which no language translates.
    if sqlstate_of(error) in NOT_THERE and "eventsource_" in reason:
        reason += "; `eventsource-migrate init` makes it again"
        if "eventsource_fences" in reason:
            # It is empty then, and who has moved would be let in again.
            reason += ": keep writers away until `eventsource-migrate repair` has filled it"
    if sqlstate_of(error) == READ_ONLY:
        reason += (
            "; the server is a standby, or may only be read: the dsn has to lead to the primary"
        )
    return reason


#: What a store is, and not what the data are: the migration waits with it, and goes on when the
#: store is what it was, or somebody has decided.
WAITING_FOR_SOMEBODY = (StoreGoneBackError, StoreMismatchError)


def refuse_newer(migration: Migration) -> None:
    """Before anything is asked of a migration or done with it.

    Raises:
        ProtocolVersionError: a newer version carries it on.
    """
    if migration.is_newer:
        raise ProtocolVersionError(migration.id, migration.protocol)


def recorded(migration: Migration) -> MigrationError | None:
    """The error that the migration waits with, if it is one for somebody to decide."""
    for error in WAITING_FOR_SOMEBODY:
        if migration.error_code == error.code:
            return error((migration.error_message or "").removeprefix(WAITING))
    return None


def of_failed(migration: Migration) -> MigrationError:
    """The error with which a migration failed, with the way out."""
    message = (
        f"migration {migration.id} failed: {migration.error_message}; "
        f"`eventsource-migrate abort {migration.id}` cleans up"
    )
    match migration.error_code:
        case ConsistencyError.code:
            return ConsistencyError(message)
        case PreflightError.code:
            return PreflightError([message])
        case _:
            return MigrationError(message)


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group, without the cancellations it caused."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return first_of(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return errors.exceptions[0]


OK = "ok"


def describe(error: BaseException) -> dict[str, Any]:
    """A JSON-able description: code, message, and what the typed error needs."""
    code = error.code if isinstance(error, MigrationError) else "error"
    if isinstance(error, DataPlaneError) and error.kind == "inconsistent":
        code = ConsistencyError.code
    message = redact(str(error)) or type(error).__name__
    described: dict[str, Any] = {"code": code, "message": message}
    if isinstance(error, CutoverTimeoutError):
        described["timeout_seconds"] = error.timeout_seconds
        described["blocked_writers"] = error.blocked_writers
        described["blockers"] = [asdict(blocker) for blocker in error.blockers]
        described["reason"] = error.reason
    if isinstance(error, RoutersNotReadyError):
        described["said"] = error.said
    if isinstance(error, PreflightError):
        described["problems"] = list(error.problems)
    if isinstance(error, InvalidStateTransitionError):
        described["current"], described["requested"] = error.current, error.requested
    return described


def raise_for(outcome: dict[str, Any], migration: Migration) -> None:
    """Raise what ``outcome`` describes; an OK outcome returns."""
    code = outcome["code"]
    if code == OK:
        return
    if code == CutoverTimeoutError.code:
        raise CutoverTimeoutError(
            outcome["timeout_seconds"],
            outcome["blocked_writers"],
            blockers_of(outcome["blockers"]),
            outcome.get("reason"),
        )
    if code == RoutersNotReadyError.code:
        raise RoutersNotReadyError(migration.id, outcome["said"])
    if code == PreflightError.code:
        raise PreflightError(outcome["problems"])
    if code == ConsistencyError.code:
        raise ConsistencyError(outcome["message"])
    for waited in WAITING_FOR_SOMEBODY:
        if code == waited.code:
            raise waited(outcome["message"])
    if code == InvalidStateTransitionError.code:
        raise InvalidStateTransitionError(migration.id, outcome["current"], outcome["requested"])
    raise MigrationError(outcome["message"])


def blockers_of(described: Iterable[dict[str, Any]]) -> tuple[Blocker, ...]:
    """Those of an outcome, which an older version may have written."""
    return tuple(_blocker(each) for each in described)


def _blocker(described: dict[str, Any]) -> Blocker:
    names = {each.name for each in fields(Blocker)}
    known = {name: value for name, value in described.items() if name in names}
    return Blocker(**{"application": "not shown", **known})
