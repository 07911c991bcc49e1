"""Telling the errors that time heals from those that it does not."""

from __future__ import annotations

import asyncio

import asyncpg

from eventsource.dataplane import DataPlaneError
from eventsource.migration.errors import TargetBusyError

#: A connection that is lost or cannot be made.
PASSING = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # What asyncpg says when a connection is lost at an awkward moment.
    asyncpg.InternalClientError,
    TimeoutError,
)

#: The server ended a transaction whose driver it had not heard of for a while, or that took long.
_ENDED = ("25P03", "25P04")

#: SQLSTATE classes that time heals: connection, resources, operator intervention, rollback, locks.
_PASSING_CLASSES = ("08", "53", "57", "40", "55")


def may_pass(error: BaseException) -> bool:
    """Whether trying again later can help."""
    if isinstance(error, DataPlaneError):
        return error.kind in ("connect", "connection_lost", "cancelled") or (
            error.kind == "sql" and (error.sqlstate or "")[:2] in _PASSING_CLASSES
        )
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = str(error.sqlstate or "")
        return sqlstate[:2] in _PASSING_CLASSES or sqlstate in _ENDED
    return isinstance(error, (*PASSING, TargetBusyError))


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group, without the cancellations it caused."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return first_of(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return errors.exceptions[0]
