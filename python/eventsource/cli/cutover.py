"""`cutover`: the tenant moves over."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsource.cli import next_steps, questions, views
from eventsource.cli.choice import MaxPause, MigrationId, TenantOption, Yes, chosen, refuse_pause
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import described, labelled, local
from eventsource.cli.under_way import rehearsed
from eventsource.cli.waiting import beside
from eventsource.cli.workspace import Workspace
from eventsource.migration import Migration, MigrationState
from eventsource.migration.repositories.ways_back import WayBack

#: In these it goes on with `resume` first.
_STANDS = (MigrationState.PAUSED, MigrationState.FAILED)


def cutover(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Skip the full comparison before it, never the proof of the last pass."
        ),
    ] = False,
    yes: Yes = False,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="All but the decision: how long would writers wait?"),
    ] = False,
    max_pause: MaxPause = None,
) -> None:
    """Move the tenant over.

    It waits for the bulk copy when that still runs. At a terminal it asks before.
    """
    requested: list[Migration] = []

    async def ask(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        refuse_pause(found.config, max_pause)
        if rehearse:
            requested.append(found)
            return await _rehearse(at, found, force, max_pause)
        if found.state is MigrationState.MIGRATED:
            _say_already(at, found, await at.coordinator.way_back(found.id))
            return ExitCode.DONE
        # What is refused in any case is not asked.
        is_refused = found.state.is_final or found.state in _STANDS or found.is_newer
        if not yes and questions.at_a_terminal() and not is_refused:
            question = await questions.of_cutover(at, found, max_pause)
            if not await questions.confirmed(question):
                at.out.say("nothing was asked for")
                return ExitCode.DONE
        requested.append(found)
        asked = at.coordinator.initiate_cutover(
            found.id, force=force, operator=at.operator, max_pause_seconds=max_pause
        )
        done = at.about = await beside(at, found.id, asked)
        way = await at.coordinator.way_back(done.id)
        at.out.answer(
            _document(at, done, way),
            labelled("cutover", views.moved(done)),
            *views.of_way_back(way),
        )
        return ExitCode.DONE

    perform(ctx, ask, interrupted=lambda: _interrupted(requested, rehearse))


async def _rehearse(
    at: Workspace, found: Migration, force: bool, max_pause: float | None
) -> ExitCode:
    asked = at.coordinator.rehearse_cutover(
        found.id, force=force, operator=at.operator, max_pause_seconds=max_pause
    )
    shown = await beside(at, found.id, asked)
    at.out.answer(shown, labelled("rehearse", rehearsed(shown, at.unit(found))))
    return ExitCode.DONE


def _say_already(at: Workspace, migration: Migration, way: WayBack | None) -> None:
    since = "" if migration.completed_at is None else f" since {local(migration.completed_at)}"
    at.out.answer(
        _document(at, migration, way),
        f"nothing to do: the tenant lives in {migration.target_store_id!r} already{since}",
    )


def _document(at: Workspace, migration: Migration, way: WayBack | None) -> dict[str, object]:
    steps = next_steps.of(migration, way, of_layout=at.of_layout(migration))
    return {**described(migration), "next": steps}


def _interrupted(requested: list[Migration], rehearse: bool) -> str:
    if not requested:
        return "interrupted before anything was asked for"
    asked, what = requested[0].id, "rehearsal" if rehearse else "cutover"
    return (
        f"interrupted; the {what} stays requested and the next driver carries it out. Take it "
        f"back: eventsource-migrate pause {asked}, or where its fence was asked for already:"
        f" eventsource-migrate abort {asked}"
    )
