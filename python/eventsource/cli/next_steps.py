"""What can be done next: after a failure, and after a step that is done."""

from __future__ import annotations

import re
import shlex

import asyncpg

from eventsource.cli.config import ConfigError
from eventsource.cli.exits import DatabaseUnavailableError
from eventsource.cli.output import Step
from eventsource.dataplane import DataPlaneError
from eventsource.migration import (
    ConsistencyError,
    CutoverTimeoutError,
    InvalidStateTransitionError,
    Migration,
    MigrationAlreadyExistsError,
    MigrationNotFoundError,
    MigrationState,
    PreflightError,
)
from eventsource.migration.repositories.ways_back import WayBack

COMMAND = "eventsource-migrate"

_VERB = r"(?:(?:fleet|way-back|subscriptions) )?[a-z-]+"
_IN_A_MESSAGE = re.compile(rf"`(?P<command>{COMMAND} (?P<verb>{_VERB})[^`]*)`")


def after(error: BaseException | None, about: Migration | None = None) -> list[Step]:
    """Ways on from an error; ``about`` is the migration that the command was about."""
    match error:
        case ConfigError() | DatabaseUnavailableError():
            return [Step("check", f"{COMMAND} init --check")]
        case PreflightError():
            return [*_named(error), Step("look", _plan(about))]
        case MigrationNotFoundError():
            return [Step("look", f"{COMMAND} list")]
        case MigrationAlreadyExistsError() if error.migration_id is not None:
            found = str(error.migration_id)
            return [
                Step("look", f"{COMMAND} status {found}"),
                Step("undo", f"{COMMAND} abort {found}"),
            ]
        case CutoverTimeoutError() if about is not None:
            ends = [
                Step("end it", f"select pg_terminate_backend({each.pid})")
                for each in error.blockers
                if each.pid
            ]
            return [*ends, Step("again", f"{COMMAND} cutover {about.id}"), *_undo(about)]
        case ConsistencyError() | DataPlaneError(kind="inconsistent") if about is not None:
            compare = f"{COMMAND} verify {_quoted(about.tenant_id)} --level full"
            return [Step("compare", compare), *_undo(about)]
        case InvalidStateTransitionError() if about is not None:
            return of(about)
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return [Step("make", f"{COMMAND} init")]
    if about is not None:
        return of(about)
    if error is None:
        return []
    return _named(error) or [Step("look", f"{COMMAND} list")]


def _named(error: BaseException) -> list[Step]:
    """The commands that the message itself names, each by its verb."""
    return [Step(found["verb"], found["command"]) for found in _IN_A_MESSAGE.finditer(str(error))]


def of(migration: Migration, way: WayBack | None = None) -> list[Step]:
    """What a migration in its state can go on with; ``way`` is its way back, where it has one."""
    if migration.is_newer:
        return [Step("look", f"{COMMAND} status {migration.id}")]
    match migration.state:
        case MigrationState.MIGRATED:
            back = (
                Step("go back", f"{COMMAND} return {migration.id}")
                if way is not None and way.is_open
                else Step("old rows", f"{COMMAND} cleanup {migration.id} --dry-run")
            )
            return [Step("next", f"{COMMAND} subscriptions plan {migration.id}"), back]
        case MigrationState.ROLLED_BACK:
            return [Step("look", f"{COMMAND} audit {migration.id}")]
        case MigrationState.FAILED if not migration.may_resume:
            return _undo(migration)
        case MigrationState.PAUSED | MigrationState.FAILED:
            return [Step("go on", f"{COMMAND} resume {migration.id}"), *_undo(migration)]
    run = f"{COMMAND} run {_quoted(migration.tenant_id)} --to {_quoted(migration.target_store_id)}"
    return [Step("go on", run), *_undo(migration)]


def _undo(migration: Migration) -> list[Step]:
    return [Step("undo", f"{COMMAND} abort {migration.id}")]


def _plan(about: Migration | None) -> str:
    if about is None:
        return f"{COMMAND} plan TENANT --to STORE"
    return f"{COMMAND} plan {_quoted(about.tenant_id)} --to {_quoted(about.target_store_id)}"


def _quoted(word: object) -> str:
    return shlex.quote(str(word))
