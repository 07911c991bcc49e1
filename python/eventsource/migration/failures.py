"""Which errors are worth retrying, and how an error crosses processes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, fields
from typing import Any

import asyncpg

from eventsource.connections import redact
from eventsource.dataplane import DataPlaneError
from eventsource.migration.errors import (
    Blocker,
    ConsistencyError,
    CutoverTimeoutError,
    InvalidStateTransitionError,
    MigrationError,
    TargetBusyError,
)
from eventsource.migration.models import Migration
from eventsource.sqlstates import ENDED_BY_THE_SERVER, PASSING_CLASSES

#: A connection that is lost or cannot be made.
PASSING = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # What asyncpg says when a connection is lost at an awkward moment.
    asyncpg.InternalClientError,
    TimeoutError,
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
            [_blocker(each) for each in outcome["blockers"]],
            outcome.get("reason"),
        )
    if code == ConsistencyError.code:
        raise ConsistencyError(outcome["message"])
    if code == InvalidStateTransitionError.code:
        raise InvalidStateTransitionError(migration.id, outcome["current"], outcome["requested"])
    raise MigrationError(outcome["message"])


def _blocker(described: dict[str, Any]) -> Blocker:
    """Of an outcome that an older version may have written."""
    names = {each.name for each in fields(Blocker)}
    known = {name: value for name, value in described.items() if name in names}
    return Blocker(**{"application": "not shown", **known})
