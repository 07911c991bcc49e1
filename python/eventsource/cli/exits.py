"""Exit codes, and the one line that stands for each error that can be expected."""

from __future__ import annotations

from enum import IntEnum

import asyncpg

from eventsource.cli.config import ConfigError
from eventsource.connections import in_a_sentence
from eventsource.dataplane import DataPlaneError
from eventsource.errors import EventSourceError
from eventsource.migration.errors import (
    ConsistencyError,
    CutoverTimeoutError,
    MigrationError,
    PreflightError,
    RetryLaterError,
)
from eventsource.remedies import remedy


class ExitCode(IntEnum):
    """What a command's exit says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PREFLIGHT_REFUSED = 3
    INCONSISTENT = 4
    CUTOVER_TIMED_OUT = 5
    TRY_AGAIN = 75
    """Nothing is wrong for good; the same command can succeed later (EX_TEMPFAIL)."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it."""
    TERMINATED = 143


class DatabaseUnavailableError(EventSourceError):
    """A database of the configuration cannot be reached; names it without its password."""


#: Errors that end a command with one line; anything else is a defect and shows its traceback.
EXPECTED = (
    EventSourceError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
)


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code that stands for an expected error."""
    match error:
        case ConfigError():
            return ExitCode.USAGE
        case PreflightError():
            return ExitCode.PREFLIGHT_REFUSED
        case ConsistencyError():
            return ExitCode.INCONSISTENT
        case DataPlaneError(kind="inconsistent"):
            return ExitCode.INCONSISTENT
        case CutoverTimeoutError():
            return ExitCode.CUTOVER_TIMED_OUT
        case RetryLaterError():
            return ExitCode.TRY_AGAIN
        case _:
            return ExitCode.FAILED


def code_of(error: BaseException) -> str:
    """The machine-readable name of an expected error."""
    match error:
        case ConfigError():
            return "config"
        case DatabaseUnavailableError():
            return "unreachable"
        case MigrationError():
            return error.code
        case DataPlaneError():
            return error.kind
        case asyncpg.PostgresError():
            return f"sql:{error.sqlstate}"
        case _:
            return "error"


def message_of(error: BaseException) -> str:
    """What is wrong and, where the error knows it, what to do."""
    is_of_a_server = isinstance(error, asyncpg.PostgresError)
    text = in_a_sentence(error) if is_of_a_server else str(error).strip()
    text = text or type(error).__name__
    if isinstance(error, PreflightError):
        return "refused, nothing was changed: " + text
    if isinstance(error, (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)):
        return f"{text}; run `eventsource-migrate init`"
    if isinstance(error, OSError) and error.filename is not None:
        # Of a file, such as a certificate; a connection has no name.
        return f"{error.filename}: {error.strerror or type(error).__name__}"
    if isinstance(error, (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        what_to_do = remedy(error, "the dsn") or "check the dsn, and that the server runs"
        return f"a database cannot be reached: {text}; {what_to_do}"
    return "; ".join(filter(None, (text, remedy(error, "the dsn"))))
