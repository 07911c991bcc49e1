"""`subscriptions plan` and `subscriptions migrate`: checkpoints for the store a tenant moved to."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from eventsource.cli.config import ConfigError
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import columns
from eventsource.cli.show import MigrationId
from eventsource.cli.workspace import Workspace
from eventsource.tenant_ids import TenantId

app = typer.Typer(no_args_is_help=True, help="Carry a tenant's subscriptions over.")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Subscriptions. [default: all that have a checkpoint in the source store]",
    ),
]


@app.command()
def plan(ctx: typer.Context, migration_id: MigrationId, names: Names = None) -> None:
    """Say where each subscription would go on at the target; changes nothing."""

    async def look(at: Workspace) -> ExitCode:
        tenant_id, chosen = await _chosen(at, migration_id, names)
        planned = await at.subscriptions.plan_migration(migration_id, tenant_id, chosen)
        rows = (
            (
                each.subscription_name,
                each.current_position,
                each.planned_target_position,
                each.redelivered_events,
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
        at.out.answer(planned, columns(headings, rows))
        return ExitCode.DONE

    perform(ctx, look)


@app.command()
def migrate(ctx: typer.Context, migration_id: MigrationId, names: Names = None) -> None:
    """Make the checkpoint of each subscription at the target; twice does nothing more."""

    async def carry_over(at: Workspace) -> ExitCode:
        tenant_id, chosen = await _chosen(at, migration_id, names)
        summary = await at.subscriptions.migrate_subscriptions(
            migration_id, tenant_id, chosen, operator=at.operator
        )
        rows = (
            (
                each.subscription_name,
                each.source_position,
                each.target_position,
                "failed" if not each.success else "made" if each.created else "kept",
                each.redelivered_events,
                each.error or each.warning,
            )
            for each in summary.results
        )
        headings = ("subscription", "at the source", "at the target", "", "redelivered", "note")
        at.out.answer(summary, columns(headings, rows))
        return ExitCode.DONE if summary.all_successful else ExitCode.FAILED

    perform(ctx, carry_over)


async def _chosen(
    at: Workspace, migration_id: UUID, names: list[str] | None
) -> tuple[TenantId, list[str]]:
    """The migration's tenant, and the named subscriptions or all that read its source store."""
    migration = await at.coordinator.get_migration(migration_id)
    if names:
        return migration.tenant_id, names
    found = sorted(
        {
            checkpoint.subscription_name
            for checkpoint in await at.checkpoints.list_checkpoints()
            if checkpoint.store_id == migration.source_store_id
            and checkpoint.tenant_id in (None, migration.tenant_id)
        }
    )
    if not found:
        raise ConfigError(
            f"no subscription has a checkpoint in store {migration.source_store_id!r}: name them"
        )
    return migration.tenant_id, found
