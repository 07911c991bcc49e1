"""`routers`: which processes could write at the target, as they say themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsource.cli import views
from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import record
from eventsource.cli.questions import unreported
from eventsource.cli.workspace import Workspace


def routers(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    leave_out: Annotated[
        str | None,
        typer.Option(
            "--leave-out", metavar="NAME", help="Do not let the cutover wait for this one."
        ),
    ] = None,
) -> None:
    """Show which processes that append for the tenant could write at the target.

    A cutover is refused while one of them could not.
    """

    async def look(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        if leave_out is not None:
            await at.coordinator.leave_out_router(found.id, leave_out, operator=at.operator)
        reports = await at.coordinator.routers(found.id)
        at.out.answer(
            [record(each) for each in reports],
            views.routers(reports, at.out.screen),
            *([] if found.state.is_final else views.unreported(await unreported(at, found))),
        )
        return ExitCode.DONE

    perform(ctx, look)
