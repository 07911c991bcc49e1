"""`repair` and `rebind`: after a restore, a failover, or another change of what a store is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import asyncpg
import typer

from eventsource.cli import completion, files, questions
from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, described
from eventsource.cli.workspace import Workspace
from eventsource.errors import StoreSchemaError
from eventsource.migration import MigrationState, RepairReport, StrandedEvent, StrandedRow
from eventsource.migration.recovery import checkpoints
from eventsource.migration.recovery.checkpoints import CheckpointAhead

QUESTION = "Change this now?"


def repair(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Change it without asking.")] = False,
    put_back: Annotated[
        bool,
        typer.Option(
            "--put-back",
            help="Append events that are only where their tenant does not live to where it does,"
            " if their streams have not gone on there.",
        ),
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="PATH", help="Write the ids of such events there, one a line."
        ),
    ] = None,
) -> None:
    """Bring routes, journal and fences in line with what the stores say.

    For the time after a restore or a failover, before the applications go on. It prints what it
    would change and asks; no decision is undone and no event is lost.
    """

    async def mend(at: Workspace) -> ExitCode:
        files.refuse_unwritable(export, "--export")
        for store_id in at.stores:
            await at.reach_store(store_id)
        planned = await at.coordinator.repair(dry_run=True, put_back=put_back)
        skipping = await _ahead(at)
        if not planned.changes:
            _export(planned, export)
            at.out.answer(
                _document(planned, skipping), *_notes(planned), *_checkpoints(skipping),
                "nothing to repair",
            )  # fmt: skip
            return ExitCode.DONE
        if not at.out.as_json:
            for line in (*_changes(planned), *_notes(planned)):
                at.out.say(line)
        if not yes and not await questions.confirmed(QUESTION):
            at.out.answer(
                _document(planned, skipping),
                *_checkpoints(skipping),
                "nothing was changed; change it: eventsource-migrate repair --yes",
            )
            return ExitCode.DONE
        done = await at.coordinator.repair(put_back=put_back, operator=at.operator)
        _export(done, export)
        left = [note for note in done.notes if note not in planned.notes]
        # What was put back may have been handed out again.
        skipping = await _ahead(at)
        at.out.answer(
            _document(done, skipping), *_events(done), *left, *_checkpoints(skipping), "repaired"
        )
        return ExitCode.FAILED if left else ExitCode.DONE

    perform(ctx, mend)


async def _ahead(at: Workspace) -> list[CheckpointAhead] | None:
    """Checkpoints that a store which has gone back does not reach; none where there is no table,
    None where the role may not look."""
    try:
        return await checkpoints.ahead(at.stores, await at.checkpoints.list_checkpoints())
    except StoreSchemaError:
        return []
    except asyncpg.InsufficientPrivilegeError as error:
        at.out.warn(
            f"the checkpoints were not looked at ({error}): readers may be above what a store has"
            " handed out; grant select on it, and run this again"
        )
        return None


def _checkpoints(found: Sequence[CheckpointAhead] | None) -> list[str]:
    return [f"{'checkpoint':<12} {each}" for each in found or ()]


def _document(
    report: RepairReport, skipping: Sequence[CheckpointAhead] | None
) -> dict[str, object]:
    return {
        "done": report.done,
        "changes": [asdict(change) for change in report.changes],
        "notes": list(report.notes),
        "events": [asdict(event) for event in report.stranded],
        "rows": [asdict(row) for row in report.rows],
        "checkpoints": None if skipping is None else [asdict(each) for each in skipping],
    }


def _changes(report: RepairReport) -> list[str]:
    return [f"{change.kind:<12} {change.sentence}" for change in report.changes] + _events(report)


def _notes(report: RepairReport) -> list[str]:
    return [f"{'for you':<12} {note}" for note in report.notes]


def _events(report: RepairReport) -> list[str]:
    """How many events are only where their tenant does not live, and what becomes of them."""
    lines = []
    for store_id, count in sorted(Counter(each.kept_in for each in report.stranded).items()):
        mine = [each for each in report.stranded if each.kept_in == store_id]
        back = sum(each.was_put_back for each in mine)
        fits = sum(each.conflict is None and not each.was_put_back for each in mine)
        lines.append(
            f"{'events':<12} {amount(count)} that only store {store_id!r} has:"
            f" {amount(back)} put back, {amount(fits)} would fit (--put-back),"
            f" {amount(count - back - fits)} have no place any more; name them: --export PATH"
        )
    for store_id, count in sorted(Counter(each.kept_in for each in report.rows).items()):
        lines.append(
            f"{'rows':<12} {amount(count)} of another library's tables in store {store_id!r} that"
            " are not where their tenant lives: kept there as they are; name them: --export PATH"
        )
    return lines


def _export(report: RepairReport, path: Path | None) -> None:
    if path is not None:
        found: list[StrandedEvent | StrandedRow] = [*report.stranded, *report.rows]
        files.write(path, "".join(map(_line, found)))


def _line(found: StrandedEvent | StrandedRow) -> str:
    return json.dumps(asdict(found), default=str) + "\n"


def rebind(
    ctx: typer.Context,
    migration: MigrationId = None,
    *,
    store: Annotated[
        str,
        typer.Option(
            "--store",
            metavar="STORE",
            help="Which of its two stores it is.",
            autocompletion=completion.stores,
        ),
    ],
    tenant: TenantOption = None,
) -> None:
    """Go on with a store that has become another place.

    For a paused migration whose store was restored from a dump, or was switched over to another
    server, and for a finished one, whose way back is closed by it. A place that holds nothing of
    the migration is refused.
    """

    async def bind(at: Workspace) -> ExitCode:
        await at.reach_store(store)
        found = await chosen(at, migration, tenant)
        bound = await at.coordinator.rebind_migration(found.id, store, operator=at.operator)
        for line in _checkpoints(await _ahead(at)):
            at.out.say(line)
        goes_on = f"migration {bound.id} goes on with store {store!r} as it is now"
        if bound.state is MigrationState.MIGRATED:
            way = await at.coordinator.way_back(bound.id)
            closed = f"; its way back is {way.shown}" if way is not None else ""
            at.out.answer(described(bound), f"{goes_on}{closed}")
            return ExitCode.DONE
        at.out.answer(
            described(bound), f"{goes_on}; resume it: eventsource-migrate resume {bound.id}"
        )
        return ExitCode.DONE

    perform(ctx, bind)
