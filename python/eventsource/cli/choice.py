"""Which migration a command is about: by its id, the first characters of it, or by its tenant."""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

import typer

from eventsource.cli import completion
from eventsource.cli.config import ConfigError
from eventsource.cli.workspace import Workspace
from eventsource.migration import Migration, MigrationConfig, MigrationNotFoundError
from eventsource.migration.operations.cutovers import SHORTEST_PAUSE, refuse_budget
from eventsource.migration.repositories import lookups

#: The fewest characters of an id that are taken for it.
FEWEST = 4

_HALF_AN_ID = re.compile(rf"[0-9a-fA-F][0-9a-fA-F-]{{{FEWEST - 1},35}}")


def like_an_id(text: str | None) -> str | None:
    """The text, if it can be an id of a migration or begin one; a usage error otherwise."""
    if text is not None and not _HALF_AN_ID.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is no id of a migration; give at least its first {FEWEST} characters, as"
            " `eventsource-migrate list` shows them"
        )
    return text


MigrationId = Annotated[
    str | None,
    typer.Argument(
        metavar="MIGRATION",
        help="Its id, or the first characters of it.",
        callback=like_an_id,
        autocompletion=completion.migrations,
        show_default=False,
    ),
]

TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", metavar="TENANT", help="Instead: the tenant's newest migration."),
]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask at a terminal.")]

MaxPause = Annotated[
    float | None,
    typer.Option(
        "--max-pause",
        metavar="SECONDS",
        min=SHORTEST_PAUSE,
        help="What writers may wait this time. [default: cutover_timeout_seconds]",
    ),
]

KeepWayBack = Annotated[
    str | None,
    typer.Option(
        "--keep-way-back",
        metavar="TIME",
        help="How long the tenant may return: 7d, 12h, 0. [default: keep_way_back]",
    ),
]

StoreTo = Annotated[
    str,
    typer.Option(
        "--to", metavar="STORE", help="Where the tenant goes.", autocompletion=completion.stores
    ),
]

StoreFrom = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STORE",
        help="Where it is. [default: where it lives]",
        autocompletion=completion.stores,
    ),
]

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", show_default=False)]


async def chosen(at: Workspace, text: str | None, tenant: str | None) -> Migration:
    """The one migration that is meant.

    Raises:
        ConfigError: none is named, or more than one is meant.
        MigrationNotFoundError: there is none with this id.
    """
    at.about = await _find(at, text, tenant)
    return at.about


async def _find(at: Workspace, text: str | None, tenant: str | None) -> Migration:
    if text is not None and tenant is not None:
        raise ConfigError("both a migration and --tenant are given: leave one of them out")
    if tenant is not None:
        found = await at.migrations.get_by_tenant(at.tenant(tenant))
        if not found:
            raise ConfigError(
                f"tenant {tenant} has no migration; `eventsource-migrate list` shows all there are"
            )
        return found[-1]
    if text is None:
        raise ConfigError(
            "no migration is named: give its id, the first characters of it, or --tenant TENANT;"
            " `eventsource-migrate list` shows all there are"
        )
    if (whole := _whole(text)) is not None:
        return await _by_id(at, whole)
    ids = await lookups.ids_beginning_with(at.control, text)
    if len(ids) == 1:
        return await at.coordinator.get_migration(ids[0])
    if not ids:
        raise ConfigError(
            f"no migration has an id that begins with {text!r}; `eventsource-migrate list` shows"
            " all there are"
        )
    raise ConfigError(
        f"{len(ids)} migrations have ids that begin with {text!r}; give more of it:"
        f" {', '.join(map(str, ids[:5]))}"
    )


def refuse_pause(config: MigrationConfig, seconds: float | None) -> None:
    """Before anything is done: `--max-pause` beside what the migration's writers wait at most.

    Raises:
        ConfigError: it is out of range.
    """
    try:
        refuse_budget(config, seconds)
    except ValueError as error:
        raise ConfigError(f"--max-pause: {error}") from None


async def _by_id(at: Workspace, migration_id: UUID) -> Migration:
    try:
        return await at.coordinator.get_migration(migration_id)
    except MigrationNotFoundError:
        if await at.migrations.get_by_tenant(migration_id):
            raise ConfigError(
                f"{migration_id} is a tenant and no migration; for its newest one say --tenant"
                f" {migration_id}"
            ) from None
        raise


def _whole(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) >= 32 else None
    except ValueError:
        return None
