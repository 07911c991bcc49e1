"""`status`, `list` and `lag`: looking without touching."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import asyncpg
import typer
from rich.live import Live

from eventsource.cli import views
from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, described, painted, record
from eventsource.cli.questions import unreported
from eventsource.cli.workspace import Workspace, patiently
from eventsource.errors import EventSourceError
from eventsource.migration import Migration, MigrationState
from eventsource.migration.repositories import lookups
from eventsource.migration.repositories.ways_back import WayBack

#: How often --watch looks (seconds).
WATCH_SECONDS = 0.5


def status(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow until it is over, or until Ctrl-C.")
    ] = False,
) -> None:
    """Show how far a migration is; without one, all that are under way."""

    async def look(at: Workspace) -> ExitCode:
        if watch:
            await _watch(at, migration, tenant)
            return ExitCode.DONE
        found = await _find(at, migration, tenant)
        lags = [await _lag(at, each) for each in found]
        shown = [views.document(each, lag) for each, lag in zip(found, lags, strict=True)]
        if _all(migration, tenant):
            at.out.answer(shown, _view(at, found, lags))
            return ExitCode.DONE
        way = await _way_back(at, found[0])
        reports = await at.coordinator.routers(found[0].id)
        silent = await unreported(at, found[0])
        at.out.answer(
            {
                **shown[0],
                "way_back": None if way is None else record(way),
                "routers": [record(each) for each in reports],
                "unreported_sessions": silent,
            },
            views.details(found[0], lags[0], way, reports, silent),
        )
        return ExitCode.DONE

    perform(ctx, look, interrupted=lambda: "stopped looking", endless=watch)


def _all(migration: str | None, tenant: str | None) -> bool:
    return migration is None and tenant is None


async def _find(at: Workspace, migration: str | None, tenant: str | None) -> list[Migration]:
    if _all(migration, tenant):
        return await at.coordinator.get_active_migrations()
    return [await chosen(at, migration, tenant)]


def _view(at: Workspace, found: Sequence[Migration], lags: Sequence[int | None]) -> str:
    if not found:
        return "no migration is under way; `eventsource-migrate list` shows those that are over"
    if len(found) > 1:
        return views.table(found, at.out.width)
    return views.details(found[0], lags[0])


async def _way_back(at: Workspace, migration: Migration) -> WayBack | None:
    """None also where the table is not there yet, or the role may not read it."""
    try:
        return await at.coordinator.way_back(migration.id)
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        return None


async def _lag(at: Workspace, migration: Migration) -> int | None:
    """The lag, where the stores are known and answer; a status does not fail for it."""
    if migration.state not in (MigrationState.DUAL_WRITE, MigrationState.PAUSED):
        return None
    try:
        return await at.coordinator.get_sync_lag(migration.id)
    except (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None


async def _watch(at: Workspace, migration: str | None, tenant: str | None) -> None:
    last: list[Migration] = []
    with contextlib.ExitStack() as stack:
        live = None
        if at.out.is_live:
            live = stack.enter_context(Live(console=at.out.console, auto_refresh=False))
        while True:
            found = await patiently(at, partial(_find, at, migration, tenant))
            if live is not None:
                lags = [await _lag(at, found[0])] if len(found) == 1 else [None] * len(found)
                live.update(painted(_view(at, found, lags)), refresh=True)
            else:
                for each in found:
                    if each not in last:
                        at.out.answer(described(each), views.line(each))
            last = found
            if not _all(migration, tenant) and found[0].state.is_final:
                return
            await asyncio.sleep(WATCH_SECONDS)


def list_migrations(
    ctx: typer.Context,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's.")
    ] = None,
) -> None:
    """List migrations, oldest first, also those that are over."""

    async def look(at: Workspace) -> ExitCode:
        found = await (
            at.migrations.get_all()
            if tenant is None
            else at.migrations.get_by_tenant(at.tenant(tenant))
        )
        operators = await lookups.operators_of(at.control, [each.id for each in found])
        shown = views.table(found, at.out.width, operators) if found else "no migration yet"
        at.out.answer(
            [{**described(each), "started_by": operators.get(each.id)} for each in found], shown
        )
        return ExitCode.DONE

    perform(ctx, look)


def lag(ctx: typer.Context, migration: MigrationId = None, tenant: TenantOption = None) -> None:
    """Count the events that the target does not hold yet."""

    async def look(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        for store_id in (found.source_store_id, found.target_store_id):
            if store_id in at.settings.stores:
                await at.reach_store(store_id)  # its error names the store
        events = await at.coordinator.get_sync_lag(found.id)
        at.out.answer({"migration_id": found.id, "lag": events}, f"{amount(events)} events")
        return ExitCode.DONE

    perform(ctx, look)
