"""`subscriptions plan` and `subscriptions migrate`: checkpoints for the store a tenant moved to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.config import ConfigError
from eventsource.cli.exits import ExitCode
from eventsource.cli.group import Verb
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, columns
from eventsource.cli.workspace import Workspace
from eventsource.migration import Migration

app = typer.Typer(no_args_is_help=True, help="Carry a tenant's subscriptions over.")


def _named(names: list[str] | None) -> list[str] | None:
    if names and not all(names):
        raise typer.BadParameter("a name is empty; write it, or none for all subscriptions")
    return names


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        callback=_named,
        help="Subscriptions. [default: all that have a checkpoint in the source store]",
    ),
]


@app.command(cls=Verb)
def plan(
    ctx: typer.Context,
    migration: MigrationId = None,
    names: Names = None,
    tenant: TenantOption = None,
) -> None:
    """Look where each would go on; changes nothing."""

    async def look(at: Workspace) -> ExitCode:
        found = await _chosen(at, migration, tenant)
        known = names or await _with_checkpoint(at, found)
        planned = await at.subscriptions.plan_migration(found.id, found.tenant_id, known)
        rows = (
            (
                each.subscription_name,
                each.current_position,
                each.planned_target_position,
                amount(each.redelivered_events),
                each.warning,
            )
            for each in planned.planned_migrations
        )
        headings = (
            "subscription",
            f"in {planned.source_store_id}",
            f"in {planned.target_store_id}",
            "redelivered",
            "note",
        )
        at.out.answer(planned, columns(headings, rows, at.out.screen))
        return ExitCode.DONE

    perform(ctx, look)


@app.command(cls=Verb)
def migrate(
    ctx: typer.Context,
    migration: MigrationId = None,
    names: Names = None,
    tenant: TenantOption = None,
    from_start: Annotated[
        bool,
        typer.Option(
            "--from-start", help="Also a subscription without a checkpoint, from the first event."
        ),
    ] = False,
) -> None:
    """Make the checkpoint of each at the target.

    A second time it does nothing more.
    """

    async def carry_over(at: Workspace) -> ExitCode:
        found = await _chosen(at, migration, tenant)
        known = await _with_checkpoint(at, found, of=names)
        if not from_start:
            _refuse_unknown(found, names or (), known)
        summary = await at.subscriptions.migrate_subscriptions(
            found.id, found.tenant_id, names or known, operator=at.operator
        )
        rows = (
            (
                each.subscription_name,
                each.source_position,
                each.target_position,
                "failed" if not each.success else "made" if each.created else "kept",
                amount(each.redelivered_events),
                each.error or each.warning,
            )
            for each in summary.results
        )
        headings = (
            "subscription", "at the source", "at the target", "checkpoint", "redelivered", "note",
        )  # fmt: skip
        at.out.answer(summary, columns(headings, rows, at.out.screen))
        return ExitCode.DONE if summary.all_successful else ExitCode.FAILED

    perform(ctx, carry_over)


async def _chosen(at: Workspace, migration: str | None, tenant: str | None) -> Migration:
    found = await chosen(at, migration, tenant)
    at.subscriptions.refuse_layout(found)
    return found


def _refuse_unknown(migration: Migration, names: Sequence[str], known: Sequence[str]) -> None:
    """A checkpoint for a name that nothing has would stay for good, and nobody would use it."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"no subscription {', '.join(map(repr, unknown))} has a checkpoint in store"
            f" {migration.source_store_id!r}: check the name; one that has handled nothing yet"
            " begins at the tenant's first event with --from-start"
        )


async def _with_checkpoint(
    at: Workspace, migration: Migration, of: Sequence[str] | None = None
) -> list[str]:
    """Subscriptions that read the migration's source store; with ``of`` there may be none."""
    found = sorted(
        {
            checkpoint.subscription_name
            for checkpoint in await at.checkpoints.list_checkpoints()
            if checkpoint.store_id == migration.source_store_id
            and checkpoint.tenant_id in (None, migration.tenant_id)
        }
    )
    if not found and not of:
        raise ConfigError(
            f"no subscription has a checkpoint in store {migration.source_store_id!r}: name them"
        )
    return found
