"""`cleanup`: the rows that a tenant has left behind."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from eventsource.cli import questions
from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.config import ConfigError
from eventsource.cli.display import Display, display_for
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, labelled, megabytes
from eventsource.cli.workspace import Workspace
from eventsource.counts import counted
from eventsource.durations import seconds_of
from eventsource.migration import Migration, MigrationState
from eventsource.migration.operations.cleanups import CleanupResult
from eventsource.tenant_ids import TenantId

_QUESTION = (
    "Delete {rows} rows of tenant {tenant} in {store!r}? After that {home!r} cannot be repaired"
    " from them."
)


def cleanup(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every finished migration whose tenant has old rows.")
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="TIME", help="With --all: finished so long ago."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare and count; delete nothing.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="ROWS", min=1, help="Rows per second. [default: no limit]"),
    ] = None,
    backed_up: Annotated[
        bool,
        typer.Option("--backed-up", help="There is a backup of the tenant's store since the flip."),
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Before the time of keep_way_back has passed.")
    ] = False,
) -> None:
    """Delete the rows that a tenant has left where it lived before.

    Each is compared with the tenant's store first; the first that differs ends it. Started again
    it goes on.
    """
    if (migration is None and tenant is None) != everything:
        raise typer.BadParameter("name one migration, or its --tenant, or say --all")

    async def carry_out(at: Workspace) -> ExitCode:
        if everything:
            found = [each for each in await _finished(at, older_than) if not _is_left_out(at, each)]
        else:
            found = [await chosen(at, migration, tenant)]
        results = []
        with display_for(at.out) as display:
            for each in found:
                if not dry_run and not await _agreed(at, display, each, backed_up, now, rate):
                    continue
                agreed = backed_up or questions.at_a_terminal()
                results.append(await _clean_up(at, display, each, dry_run, agreed, now, rate))
        shown = [line for each in results for line in _lines(each, dry_run)]
        shown = shown or ["nothing was deleted"]
        one = results[0] if results else None
        at.out.answer(results if everything else one, *shown)
        return ExitCode.DONE

    kept = "interrupted; the same command goes on where it stopped"
    perform(ctx, carry_out, interrupted=lambda: kept)


def _is_left_out(at: Workspace, migration: Migration) -> bool:
    """Whether its old rows are none of ours; those of the others go all the same."""
    if not at.of_layout(migration):
        return False
    at.out.warn(
        f"the rows of tenant {migration.tenant_id} in {migration.source_store_id!r} stay: they are"
        " in tables of another library"
    )
    return True


async def _agreed(
    at: Workspace, display: Display, migration: Migration, backed_up: bool, now: bool,
    rate: float | None,
) -> bool:  # fmt: skip
    """Whether to delete: --backed-up says so, or somebody at the terminal does."""
    if backed_up or not questions.at_a_terminal():
        return True
    found = await _clean_up(at, display, migration, True, backed_up, now, rate)
    display.settle()
    if found.not_yet is not None or not found.rows:
        # What is refused, or is nothing, is not asked.
        return True
    question = _QUESTION.format(
        rows=amount(found.rows), tenant=found.tenant_id, store=found.store_id, home=found.home_id
    )
    return await questions.confirmed(question)


async def _clean_up(
    at: Workspace, display: Display, migration: Migration, dry_run: bool, backed_up: bool,
    now: bool, rate: float | None,
) -> CleanupResult:  # fmt: skip
    def seen(what: str, rows: int) -> None:
        display.waiting("cleanup", f"{counted(rows, 'row')} {what}")

    result = await at.coordinator.cleanup(
        migration.id,
        dry_run=dry_run,
        backed_up=backed_up,
        now=now,
        max_rows_per_second=rate,
        operator=at.operator,
        seen=seen,
    )
    display.settle()
    return result


async def _finished(at: Workspace, older_than: str | None) -> list[Migration]:
    """Those whose tenant has gone from their source and not come back."""
    try:
        age = timedelta(seconds=seconds_of("--older-than", older_than or "0"))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    before = await at.migrations.pool.fetchval("select now()") - age
    newest: dict[tuple[TenantId, str], Migration] = {}
    homes: dict[TenantId, str] = {
        each.tenant_id: each.store_id for each in await at.routes.get_all()
    }
    for each in await at.migrations.get_all():
        if each.state is MigrationState.MIGRATED and each.completed_at is not None:
            newest[each.tenant_id, each.source_store_id] = each
    return [
        each
        for (tenant, store), each in newest.items()
        if each.completed_at is not None
        and each.completed_at < before
        and homes.get(tenant) != store
    ]


def _lines(found: CleanupResult, dry_run: bool) -> list[str]:
    of = f"of tenant {found.tenant_id}"
    if not found.rows:
        return [labelled("cleaned", f"nothing: no row {of} is left in {found.store_id!r}")]
    if not dry_run:
        gone = f"{counted(found.deleted, 'row')} {of} in {found.store_id!r}"
        return [labelled("cleaned", f"{gone}; {found.home_id!r} has them all")]
    size = f"{counted(found.rows, 'row')}, about {megabytes(found.bytes)},"
    would = f"{size} {of} in {found.store_id!r} would go; all are in {found.home_id!r} as they are"
    not_yet = [] if found.not_yet is None else [labelled("not yet", found.not_yet)]
    return [labelled("dry run", would), *not_yet]
