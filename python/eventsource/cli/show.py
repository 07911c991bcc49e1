"""`status`, `list`, `lag` and `audit`: looking without touching."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated
from uuid import UUID

import asyncpg
import typer
from rich.live import Live

from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, columns, described, grid
from eventsource.cli.workspace import Workspace, patiently
from eventsource.errors import EventSourceError
from eventsource.migration import Migration, MigrationState

#: How often --watch looks (seconds).
WATCH_SECONDS = 0.5

MigrationId = Annotated[UUID, typer.Argument(metavar="MIGRATION")]


def status(
    ctx: typer.Context,
    migration_id: Annotated[
        UUID | None,
        typer.Argument(metavar="[MIGRATION]", help="Without it, all that are under way."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow until it is over, or until Ctrl-C.")
    ] = False,
) -> None:
    """Show how far a migration is."""

    async def look(at: Workspace) -> ExitCode:
        if watch:
            await _watch(at, migration_id)
            return ExitCode.DONE
        found = await _find(at, migration_id)
        shown = [described(migration) for migration in found]
        at.out.answer(shown if migration_id is None else shown[0], await _view(at, found))
        return ExitCode.DONE

    perform(ctx, look, interrupted=lambda: "stopped looking", endless=watch)


async def _find(at: Workspace, migration_id: UUID | None) -> list[Migration]:
    if migration_id is None:
        return await at.coordinator.get_active_migrations()
    return [await at.coordinator.get_migration(migration_id)]


async def _view(at: Workspace, found: Sequence[Migration]) -> str:
    if not found:
        return "no migration is under way; `eventsource-migrate list` shows those that are over"
    if len(found) > 1:
        return _table(found)
    return _details(found[0], await _lag(at, found[0]))


async def _lag(at: Workspace, migration: Migration) -> int | None:
    """The lag, where the stores are known and answer; a status does not fail for it."""
    if migration.state not in (MigrationState.DUAL_WRITE, MigrationState.PAUSED):
        return None
    try:
        return await at.coordinator.get_sync_lag(migration.id)
    except (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None


async def _watch(at: Workspace, migration_id: UUID | None) -> None:
    last: list[Migration] = []
    with contextlib.ExitStack() as stack:
        live = None
        if at.out.is_live:
            live = stack.enter_context(Live(console=at.out.console, auto_refresh=False))
        while True:
            found = await patiently(at, partial(_find, at, migration_id))
            if live is not None:
                live.update(await _view(at, found), refresh=True)
            else:
                for migration in found:
                    if migration not in last:
                        at.out.answer(described(migration), _line(migration))
            last = found
            if migration_id is not None and found[0].state.is_final:
                return
            await asyncio.sleep(WATCH_SECONDS)


def _line(migration: Migration) -> str:
    start = f"{migration.id}  {migration.state:<14} {migration.progress_percentage:5.1f} %  "
    copied = f"{amount(migration.events_copied)} of {amount(migration.total_events)} events"
    slowed = _slowed(migration)
    remarks = (f"slowed to {slowed}" if slowed else None, migration.error_message)
    return "  ".join([start + copied, *(remark for remark in remarks if remark)])


def _slowed(migration: Migration) -> str | None:
    """The rate to which the copy is limited to spare the source, and why."""
    if migration.throttle_rate is None:
        return None
    return f"{amount(migration.throttle_rate)} events/s: {migration.throttle_reason}"


def _details(migration: Migration, lag: int | None) -> str:
    driver = migration.driver_name if migration.driver_alive else "none at the moment"
    asked = [
        name
        for name, is_asked in (
            ("pause", migration.pause_requested),
            ("abort", migration.abort_requested is not None and not migration.state.is_final),
            ("cutover", migration.cutover_request is not None),
        )
        if is_asked
    ]
    pause = migration.cutover_pause_ms
    limit = migration.config.max_events_per_second
    return grid(
        ("migration", migration.id),
        ("tenant", migration.tenant_id),
        ("move", f"{migration.source_store_id!r} to {migration.target_store_id!r}"),
        ("state", migration.state),
        (
            "copied",
            f"{amount(migration.events_copied)} of {amount(migration.total_events)} events, "
            f"{migration.progress_percentage:.1f} %",
        ),
        ("limit", None if limit is None else f"{amount(limit)} events/s"),
        ("slowed to", _slowed(migration)),
        ("lag", None if lag is None else f"{amount(lag)} events"),
        ("requested", ", ".join(asked) or None),
        ("pause", None if pause is None else f"{pause:.1f} ms"),
        ("driver", None if migration.state.is_final else driver),
        ("message", migration.error_message),
        ("started", migration.created_at.strftime("%Y-%m-%d %H:%M:%S %Z")),
        (
            "ended",
            migration.completed_at and migration.completed_at.strftime("%Y-%m-%d %H:%M:%S %Z"),
        ),
    )


def _table(found: Sequence[Migration]) -> str:
    return columns(
        ("migration", "tenant", "from", "to", "state", "copied", "pause"),
        (
            (
                each.id,
                each.tenant_id,
                each.source_store_id,
                each.target_store_id,
                each.state,
                f"{amount(each.events_copied)} ({each.progress_percentage:.0f} %)",
                None if each.cutover_pause_ms is None else f"{each.cutover_pause_ms:.1f} ms",
            )
            for each in found
        ),
    )


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
        at.out.answer(
            [described(each) for each in found], _table(found) if found else "no migration yet"
        )
        return ExitCode.DONE

    perform(ctx, look)


def lag(ctx: typer.Context, migration_id: MigrationId) -> None:
    """Count the events that the target does not hold yet."""

    async def look(at: Workspace) -> ExitCode:
        events = await at.coordinator.get_sync_lag(migration_id)
        at.out.answer({"migration_id": migration_id, "lag": events}, f"{amount(events)} events")
        return ExitCode.DONE

    perform(ctx, look)


def audit(ctx: typer.Context, migration_id: MigrationId) -> None:
    """Show what happened to a migration and who asked."""

    async def look(at: Workspace) -> ExitCode:
        await at.coordinator.get_migration(migration_id)
        entries = await at.audit_log.get_by_migration(migration_id)
        at.out.answer(
            entries,
            columns(
                ("at", "what", "by", "details"),
                (
                    (
                        entry.created_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
                        entry.event_type,
                        entry.operator,
                        ", ".join(f"{name}={value}" for name, value in entry.details.items()),
                    )
                    for entry in entries
                ),
            ),
        )
        return ExitCode.DONE

    perform(ctx, look)
