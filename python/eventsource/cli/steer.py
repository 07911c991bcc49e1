"""`start`, `pause`, `resume`, `throttle`, `abort`: one step at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsource.cli import next_steps, questions, views
from eventsource.cli.choice import (
    MigrationId,
    StoreFrom,
    StoreTo,
    TenantArgument,
    TenantOption,
    Yes,
    chosen,
)
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import described
from eventsource.cli.tenants import EmptyOption, examine
from eventsource.cli.waiting import beside
from eventsource.cli.workspace import Workspace
from eventsource.counts import counted
from eventsource.migration import Migration, MigrationConfig, MigrationState


def start(
    ctx: typer.Context,
    tenant: TenantArgument,
    to: StoreTo,
    source: StoreFrom = None,
    empty: EmptyOption = False,
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
        await examine(at, tenant_id, source_id, to, may_be_empty=empty)
        migration = at.about = await at.coordinator.start_migration(
            tenant_id,
            at.stores[source_id],
            at.stores[to],
            source_id,
            to,
            operator=at.operator,
        )
        at.out.answer(
            _document(migration),
            f"migration {migration.id} is recorded; `eventsource-migrate work` drives it",
        )
        return ExitCode.DONE

    perform(ctx, begin)


def pause(ctx: typer.Context, migration: MigrationId = None, tenant: TenantOption = None) -> None:
    """Stop the copy after the current chunk, until it is resumed."""

    async def ask(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        asked = at.coordinator.pause_migration(found.id, operator=at.operator)
        paused = at.about = await beside(at, found.id, asked)
        at.out.answer(_document(paused), f"migration {paused.id} is {paused.state}")
        return ExitCode.DONE

    perform(ctx, ask)


def resume(ctx: typer.Context, migration: MigrationId = None, tenant: TenantOption = None) -> None:
    """Let a paused migration go on.

    `work`, or any other command that waits for the migration, drives it.
    """

    async def ask(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        asked = at.coordinator.resume_migration(found.id, operator=at.operator)
        resumed = at.about = await beside(at, found.id, asked)
        at.out.answer(
            _document(resumed),
            f"migration {resumed.id} is {resumed.state}; {views.who_goes_on(resumed)}",
        )
        return ExitCode.DONE

    perform(ctx, ask)


def throttle(
    ctx: typer.Context,
    migration: MigrationId = None,
    *,
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Events per second, or none.")],
    tenant: TenantOption = None,
) -> None:
    """Limit the copy of a migration, also while it runs.

    The last pass, which writers wait for, is never limited.
    """
    limit = _limit(rate)

    async def ask(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        changed = await at.coordinator.set_rate(found.id, limit, operator=at.operator)
        limited = (
            "is not limited"
            if limit is None
            else f"copies at most {counted(limit, at.unit(found))}/s"
        )
        at.out.answer(_document(changed), f"migration {changed.id} {limited}")
        return ExitCode.DONE

    perform(ctx, ask)


def _limit(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        rate = float(text)
        rate = int(rate) if rate.is_integer() else rate
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no number of events per second: write one, such as 5000, or none",
            param_hint="RATE",
        ) from None
    try:
        return MigrationConfig(max_events_per_second=rate).max_events_per_second
    except ValueError as error:
        said = str(error).removeprefix("max_events_per_second ")
        raise typer.BadParameter(f"RATE {said}; none lifts the limit", param_hint="RATE") from None


def abort(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="For the audit log.")
    ] = "aborted by operator",
    yes: Yes = False,
    without_target: Annotated[
        bool,
        typer.Option("--without-target", help="The target is gone for good; leave it out."),
    ] = False,
) -> None:
    """Remove what was copied; the source stays as it was.

    At a terminal it asks before. A second time it does nothing.
    """

    async def ask(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        is_over = found.state in (MigrationState.MIGRATED, MigrationState.ROLLED_BACK)
        if not yes and questions.at_a_terminal() and not is_over:
            copied = counted(found.events_copied, at.unit(found))
            from_ = f"from {found.target_store_id!r}"
            if not await questions.confirmed(f"Remove {copied} {from_} that were copied there?"):
                at.out.say("nothing was asked for")
                return ExitCode.DONE
        asked = at.coordinator.abort_migration(
            found.id, reason=reason, operator=at.operator, without_target=without_target
        )
        ended = at.about = await beside(at, found.id, asked)
        at.out.answer(
            _document(ended),
            f"migration {ended.id} is {ended.state}; the tenant lives in "
            f"{ended.source_store_id!r} as before",
        )
        return ExitCode.DONE

    perform(ctx, ask)


def _document(migration: Migration) -> dict[str, object]:
    return {**described(migration), "next": next_steps.of(migration)}
