"""`move`: the whole move of one tenant as a command that a scheduler may repeat."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from eventsource.cli import views
from eventsource.cli.choice import StoreFrom, StoreTo, TenantArgument
from eventsource.cli.config import ConfigError
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import described, labelled
from eventsource.cli.workspace import Workspace
from eventsource.migration import Migration
from eventsource.migration.repositories.ways_back import WayBack
from eventsource.tenant_ids import TenantId


def move(
    ctx: typer.Context,
    tenant: TenantArgument,
    to: StoreTo,
    source: StoreFrom = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="Pause then: 05:00 of this machine's clock, or an ISO time with its zone.",
        ),
    ] = None,
) -> None:
    """Move a tenant without asking: start or go on, copy, cut over.

    Repeated, it goes on where it was, and does nothing once the tenant is there.
    """
    deadline = None if until is None else time_of(until)

    async def carry_out(at: Workspace) -> ExitCode:
        tenant_id = at.tenant(tenant)
        at.settings.require_store(to)
        home = await at.home_of(tenant_id)
        source_id = source or home
        at.settings.require_store(source_id)
        if source_id == to:
            if source is not None:
                raise ConfigError(f"--from and --to are both {to!r}: name two stores")
            _answer_already_there(at, tenant_id, to)
            return ExitCode.DONE
        migration = at.about = await at.coordinator.move(
            tenant_id, source_id, to, operator=at.operator, until=deadline
        )
        if migration is None:
            _answer_already_there(at, tenant_id, to)
        else:
            _answer(at, migration, await at.coordinator.way_back(migration.id))
        return ExitCode.DONE

    stays = "interrupted; what was done stays, and the same command goes on with it"
    perform(ctx, carry_out, interrupted=lambda: stays)


def _answer_already_there(at: Workspace, tenant_id: TenantId, store_id: str) -> None:
    at.out.answer(
        {"outcome": "already_there", "tenant_id": tenant_id, "store": store_id},
        f"nothing to do: tenant {tenant_id} lives in {store_id!r} already",
    )


def _answer(at: Workspace, migration: Migration, way: WayBack | None) -> None:
    pause = migration.cutover_pause_ms
    how = "finished by recovery" if pause is None else f"writers waited at most {pause:.1f} ms"
    at.out.answer(
        {"outcome": "migrated", "migration": described(migration)},
        labelled("moved", f"{how}; the tenant lives in {migration.target_store_id!r}"),
        *views.of_way_back(way),
    )


def time_of(text: str, now: datetime | None = None) -> datetime:
    """The next time that a clock of this machine shows ``HH:MM``, or an ISO time with its zone."""
    now = now or datetime.now().astimezone()
    try:
        if len(text) <= 5:
            clock = datetime.strptime(text, "%H:%M").time()
            at = datetime.combine(now.date(), clock).astimezone()
            if at <= now:
                # By the calendar and not by 24 hours: that night the clocks may change.
                at = datetime.combine(now.date() + timedelta(days=1), clock).astimezone()
            return at
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: write 05:00, or 2026-12-01T05:00+01:00", param_hint="--until"
        ) from None
    if at.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} has no time zone: write it as 2026-12-01T05:00+01:00", param_hint="--until"
        )
    return at
