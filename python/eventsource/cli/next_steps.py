"""What can be done next: after a failure, and after a step that is done."""

from __future__ import annotations

import re

import asyncpg

from eventsource.cli.config import ConfigError
from eventsource.cli.exits import DatabaseUnavailableError
from eventsource.cli.output import Step
from eventsource.commands import COMMAND, command
from eventsource.dataplane import DataPlaneError
from eventsource.migration import (
    ConsistencyError,
    CutoverTimeoutError,
    Migration,
    MigrationAlreadyExistsError,
    MigrationNotFoundError,
    MigrationState,
    PreflightError,
)
from eventsource.migration.repositories.ways_back import WayBack

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
            compare = command("verify", about.tenant_id, options=("--level", "full"))
            # One that has moved cannot be aborted any more.
            over = about.state is MigrationState.MIGRATED
            return [Step("compare", compare), *([] if over else _undo(about))]
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            return [Step("make", f"{COMMAND} init")]
    if about is not None and about.state is MigrationState.MIGRATED:
        # Whether it may return, or was taken back, is known there.
        return [Step("look", f"{COMMAND} status {about.id}")]
    if about is not None:
        return of(about)
    if error is None:
        return []
    return _named(error) or [Step("look", f"{COMMAND} list")]


def _named(error: BaseException) -> list[Step]:
    """The commands that the message itself names, each by its verb."""
    return [Step(found["verb"], found["command"]) for found in _IN_A_MESSAGE.finditer(str(error))]


def of(migration: Migration, way: WayBack | None = None, *, of_layout: bool = False) -> list[Step]:
    """What a migration in its state can go on with; ``way`` is its way back, where it has one.

    Args:
        of_layout: whether it moves rows of another library's tables: nothing of ours reads these,
            and old rows stay.
    """
    if migration.is_newer:
        return [Step("look", f"{COMMAND} status {migration.id}")]
    match migration.state:
        case MigrationState.MIGRATED if of_layout:
            return [Step("record", f"{COMMAND} report {migration.id}")]
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
        case MigrationState.CUTOVER_PAUSED:
            # It may have been decided: then there is nothing to undo, and only its end is missing.
            return [go_on(migration), Step("look", f"{COMMAND} status {migration.id}")]
    return [go_on(migration), *_undo(migration)]


def go_on(migration: Migration, *options: str) -> Step:
    """What takes an unfinished migration to its end."""
    if migration.returns is not None:
        return Step("go on", command("return", migration.returns, options=options))
    to = ("--to", migration.target_store_id, *options)
    return Step("go on", command("run", migration.tenant_id, options=to))


def _undo(migration: Migration) -> list[Step]:
    return [Step("undo", f"{COMMAND} abort {migration.id}")]


def _plan(about: Migration | None) -> str:
    if about is None:
        return f"{COMMAND} plan TENANT --to STORE"
    return command("plan", about.tenant_id, options=("--to", about.target_store_id))
