"""`start`, `work`, `cutover`, `pause`, `resume`, `throttle`, `abort`: one step at a time."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

import typer

from eventsource.cli.display import labelled
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, described
from eventsource.cli.show import MigrationId
from eventsource.cli.waiting import beside
from eventsource.cli.workspace import Workspace, patiently
from eventsource.migration import Migration, MigrationConfig

#: How often `work` looks for changes to print (seconds).
LOOK_SECONDS = 1.0


def start(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    to: Annotated[str, typer.Option("--to", metavar="STORE", help="Where the tenant goes.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="STORE", help="Where it is. [default: where it lives]"),
    ] = None,
) -> None:
    """Record a migration and return.

    `work`, or any other command that waits for the migration, drives it.
    """

    async def begin(at: Workspace) -> ExitCode:
        at.settings.require_store(to)
        tenant_id = at.tenant(tenant)
        source_id = source or await at.home_of(tenant_id)
        at.settings.require_store(source_id)
        await at.reach_for_move(source_id, to)
        migration = await at.coordinator.start_migration(
            tenant_id,
            at.stores[source_id],
            at.stores[to],
            source_id,
            to,
            operator=at.operator,
        )
        at.out.answer(
            described(migration),
            f"migration {migration.id} is recorded; `eventsource-migrate work` drives it",
        )
        return ExitCode.DONE

    perform(ctx, begin)


def work(ctx: typer.Context) -> None:
    """Drive every migration that has no live driver.

    It goes on until Ctrl-C or SIGTERM.
    """

    async def drive(at: Workspace) -> ExitCode:
        at.out.say("driving every migration that is due; Ctrl-C stops, and loses nothing")
        driving = asyncio.create_task(at.coordinator.work())
        try:
            await _print_changes(at)
        finally:
            driving.cancel()
        return ExitCode.DONE

    stopped = "stopped; another process may go on at once"
    perform(ctx, drive, interrupted=lambda: stopped, endless=True)


async def _print_changes(at: Workspace) -> None:
    """A line for every change of state."""
    last: dict[UUID, Migration] = {}
    while True:
        known = {each.id: each for each in await patiently(at, at.migrations.get_all)}
        for migration_id, migration in known.items():
            before = last.get(migration_id)
            if before is None and migration.state.is_final:
                continue
            if before is None or (before.state, before.error_message) != (
                migration.state,
                migration.error_message,
            ):
                at.out.answer(described(migration), _state_line(migration))
        last = known
        await asyncio.sleep(LOOK_SECONDS)


def _state_line(migration: Migration) -> str:
    why = f": {migration.error_message}" if migration.error_message else ""
    return f"{migration.id}  tenant {migration.tenant_id}  {migration.state}{why}"


def cutover(
    ctx: typer.Context,
    migration_id: MigrationId,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Skip the full comparison before it, never the proof of the last pass."
        ),
    ] = False,
) -> None:
    """Move the tenant over.

    It waits for the bulk copy when that still runs.
    """

    async def ask(at: Workspace) -> ExitCode:
        migration = await beside(
            at,
            migration_id,
            at.coordinator.initiate_cutover(migration_id, force=force, operator=at.operator),
        )
        pause = migration.cutover_pause_ms
        how = "finished by recovery" if pause is None else f"writers waited at most {pause:.1f} ms"
        at.out.answer(
            described(migration),
            labelled("cutover", f"{how}; the tenant lives in {migration.target_store_id!r}"),
        )
        return ExitCode.DONE

    perform(
        ctx,
        ask,
        interrupted=lambda: (
            "interrupted; the cutover stays requested and the next driver carries it out. Take it "
            f"back: eventsource-migrate pause {migration_id}"
        ),
    )


def pause(ctx: typer.Context, migration_id: MigrationId) -> None:
    """Stop the copy after the current chunk, until it is resumed."""

    async def ask(at: Workspace) -> ExitCode:
        asked = at.coordinator.pause_migration(migration_id, operator=at.operator)
        migration = await beside(at, migration_id, asked)
        at.out.answer(described(migration), f"migration {migration.id} is {migration.state}")
        return ExitCode.DONE

    perform(ctx, ask)


def resume(ctx: typer.Context, migration_id: MigrationId) -> None:
    """Let a paused migration go on.

    `work`, or any other command that waits for the migration, drives it.
    """

    async def ask(at: Workspace) -> ExitCode:
        asked = at.coordinator.resume_migration(migration_id, operator=at.operator)
        migration = await beside(at, migration_id, asked)
        at.out.answer(
            described(migration),
            f"migration {migration.id} is {migration.state}; `eventsource-migrate work` drives it",
        )
        return ExitCode.DONE

    perform(ctx, ask)


def throttle(
    ctx: typer.Context,
    migration_id: MigrationId,
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Events per second, or none.")],
) -> None:
    """Limit the copy of a migration, also while it runs.

    The last pass, which writers wait for, is never limited.
    """
    limit = _limit(rate)

    async def ask(at: Workspace) -> ExitCode:
        migration = await at.coordinator.set_rate(migration_id, limit, operator=at.operator)
        limited = "is not limited" if limit is None else f"copies at most {amount(limit)} events/s"
        at.out.answer(described(migration), f"migration {migration.id} {limited}")
        return ExitCode.DONE

    perform(ctx, ask)


def _limit(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return MigrationConfig(max_events_per_second=float(text)).max_events_per_second
    except ValueError as error:
        raise typer.BadParameter(f"{error}; or `none`", param_hint="RATE") from None


def abort(
    ctx: typer.Context,
    migration_id: MigrationId,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="For the audit log.")
    ] = "aborted by operator",
) -> None:
    """Remove what was copied; the source stays as it was.

    A second time it does nothing.
    """

    async def ask(at: Workspace) -> ExitCode:
        migration = await beside(
            at,
            migration_id,
            at.coordinator.abort_migration(migration_id, reason=reason, operator=at.operator),
        )
        at.out.answer(
            described(migration),
            f"migration {migration.id} is {migration.state}; the tenant lives in "
            f"{migration.source_store_id!r} as before",
        )
        return ExitCode.DONE

    perform(ctx, ask)
