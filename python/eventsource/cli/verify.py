"""`verify`: compare a tenant's events in two stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from eventsource.cli import completion, files
from eventsource.cli.choice import TenantArgument
from eventsource.cli.config import ConfigError
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.journey import summary_of
from eventsource.cli.output import amount, columns
from eventsource.cli.tenants import has_events
from eventsource.cli.workspace import Workspace
from eventsource.counts import counted
from eventsource.migration import (
    ConsistencyVerifier,
    Migration,
    MigrationState,
    VerificationLevel,
    VerificationReport,
)
from eventsource.migration.errors import not_proven_yet
from eventsource.migration.event_table import of_store
from eventsource.migration.journaled import verification
from eventsource.migration.models import NAMED
from eventsource.migration.tables import identities
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.tenant_ids import TenantId

_BEFORE_A_PROOF = (MigrationState.PENDING, MigrationState.BULK_COPY)

#: Streams and differences that are shown to people; JSON has up to `NAMED` of each.
MOST_ROWS = 10

_From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STORE",
        help="[default: of its newest migration]",
        autocompletion=completion.stores,
    ),
]

_To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="STORE",
        help="[default: of its newest migration]",
        autocompletion=completion.stores,
    ),
]


def verify(
    ctx: typer.Context,
    tenant: TenantArgument,
    source: _From = None,
    to: _To = None,
    level: Annotated[
        VerificationLevel | None,
        typer.Option("--level", help="What is compared. [default: of the configuration]"),
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option("--sample", min=0.01, max=100, metavar="PERCENT", help="Share of streams."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="FILE", help="Go on from it, and remember there what is compared."
        ),
    ] = None,
) -> None:
    """Compare a tenant's events in two stores.

    Both may be in use. Exit code 4 if they differ.
    """

    async def compare(at: Workspace) -> ExitCode:
        files.refuse_unwritable(state, "--state")
        tenant_id = at.tenant(tenant)
        known = await at.coordinator.get_migrations_by_tenant(tenant_id)
        source_id, target_id = _store_ids(at, tenant_id, known, source, to)
        source_store = await at.reach_store(source_id)
        target_store = await at.reach_store(target_id)
        await _refuse_meaningless(known, {source_id: source_store, target_id: target_store})
        config = at.settings.migration
        compared = level or config.verification_level
        share = sample or config.sample_percentage
        if state is not None and compared is VerificationLevel.COUNT:
            raise ConfigError(
                "--state is for the levels hash and full, not for count: leave it out"
            )
        if source_store.layout is not None:
            if state is not None or sample is not None:
                raise ConfigError("--state and --sample are for our own tables: leave them out")
            report = await verification.verify(source_store, target_store, tenant_id, compared)
        else:
            verifier = ConsistencyVerifier(source_store, target_store)
            report = await verifier.verify_tenant_consistency(
                tenant_id,
                compared,
                sample_percentage=share,
                state_file=state,
            )
        if report.is_consistent:
            await _refuse_nothing(at, tenant_id, source_id, target_id, share, report)
        summary = summary_of(report, of_layout=source_store.layout is not None)
        _show(at, report, summary, source_id, target_id)
        return ExitCode.DONE if report.is_consistent else ExitCode.INCONSISTENT

    kept = "interrupted; the same command goes on where it stopped"
    perform(ctx, compare, interrupted=None if state is None else lambda: kept)


def _store_ids(
    at: Workspace,
    tenant_id: TenantId,
    known: Sequence[Migration],
    source: str | None,
    target: str | None,
) -> tuple[str, str]:
    if source is None or target is None:
        if not known:
            raise ConfigError(f"tenant {tenant_id} has no migration: name --from and --to")
        source = source or known[-1].source_store_id
        target = target or known[-1].target_store_id
    for store_id in (source, target):
        at.settings.require_store(store_id)
    return source, target


async def _refuse_meaningless(
    known: Sequence[Migration], stores: Mapping[str, PostgreSQLEventStore]
) -> None:
    """A difference between two other places, or before the first pass, says nothing of the move.

    Raises:
        StoreMismatchError: a store is not where the newest move between the two had it.
        RetryLaterError: that move has not carried everything once.
    """
    for migration in reversed(known):
        ids = migration.source_store_id, migration.target_store_id
        given_up = migration.state in (MigrationState.ROLLED_BACK, MigrationState.FAILED)
        if not given_up and set(ids) == set(stores):
            source, target = [await of_store(stores[each]) for each in ids]
            await identities.check(migration, source, target)
            if (migration.paused_from or migration.state) in _BEFORE_A_PROOF and ids == (*stores,):
                raise not_proven_yet(migration.id)
            return


async def _refuse_nothing(
    at: Workspace,
    tenant_id: TenantId,
    source_id: str,
    target_id: str,
    share: float,
    report: VerificationReport,
) -> None:
    """Where no event was compared, that is only right of a tenant that has none yet.

    Raises:
        ConfigError: the sample left all streams out, every row was written since the move, the
            source has none any more, or nobody knows the tenant.
    """
    if 0 < report.source_event_count == report.rows_changed_since:
        raise ConfigError(
            f"nothing was compared: all {counted(report.source_event_count, 'row')} at the source"
            f" are others in {target_id!r}, where they were written since the move"
        )
    if report.source_event_count:
        return
    if report.target_event_count:
        raise ConfigError(
            f"nothing was compared: {source_id!r} holds no row of tenant {tenant_id}, and what"
            f" only {target_id!r} has after a move is the application's"
        )
    if await has_events(at, tenant_id, source_id):
        if share < 100:
            raise ConfigError(
                f"nothing was compared: a sample of {share:g} % holds no stream of tenant"
                f" {tenant_id}; take a larger one"
            )
    elif not await at.coordinator.get_migrations_by_tenant(tenant_id):
        raise ConfigError(
            f"nothing was compared: neither {source_id!r} nor {target_id!r} holds an event of"
            f" tenant {tenant_id}, and it has no migration: check the id"
        )


def _show(
    at: Workspace, report: VerificationReport, summary: str, source_id: str, target_id: str
) -> None:
    if report.is_consistent:
        at.out.answer(report, f"consistent: {summary}")
        return
    screen = at.out.screen
    said = f"NOT consistent: {source_id!r} and {target_id!r} differ: {summary}"
    if report.differences:
        table = _first(
            ("table", "key", "column", "detail"),
            [(each.table, each.key, each.column, each.detail) for each in report.differences],
            screen,
        )
        at.out.answer(report, said, table)
        return
    sides = (source_id, target_id)
    numbers = (f"{what} {store_id}" for what in ("events", "version") for store_id in sides)
    headings = ("type", "stream", *numbers)
    streams = _first(
        headings,
        [
            (
                stream.aggregate_type,
                stream.aggregate_id,
                stream.source_events,
                stream.target_events,
                stream.source_version,
                stream.target_version,
            )
            for stream in report.stream_results
        ],
        screen,
    )
    violations = _first(
        ("difference", "stream", "version", "position", "event", "field", "detail"),
        [
            (
                violation.kind,
                f"{violation.aggregate_type} {violation.aggregate_id}",
                violation.version,
                violation.position,
                violation.event_id,
                violation.field,
                violation.detail,
            )
            for violation in report.violations
        ],
        screen,
    )
    at.out.answer(report, said, streams, violations)


def _first(headings: Sequence[str], rows: Sequence[Sequence[object]], screen: int | None) -> str:
    """As many as somebody reads, and how many more there are."""
    shown = columns(headings, rows[:MOST_ROWS], screen)
    more = len(rows) - MOST_ROWS
    if more <= 0:
        return f"{shown}\n"
    if len(rows) < NAMED:
        return f"{shown}\nand {amount(more)} more; --json has them\n"
    return f"{shown}\nand at least {amount(more)} more; --json has the first {amount(NAMED)}\n"
