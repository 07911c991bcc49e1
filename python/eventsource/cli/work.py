"""`work`: drive every migration that is due."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer

from eventsource.cli import metrics, views
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import clock, described
from eventsource.cli.workspace import Workspace, patiently
from eventsource.migration import Migration
from eventsource.migration.repositories import control_place
from eventsource.said import without_ages

#: How often `work` looks for changes to print (seconds).
LOOK_SECONDS = 1.0

#: How often it looks which place the control database is (seconds).
CONTROL_SECONDS = 30.0


def work(
    ctx: typer.Context,
    metrics_at: Annotated[
        str | None,
        typer.Option(
            "--metrics", metavar="[HOST:]PORT", help="Serve metrics for Prometheus there."
        ),
    ] = None,
) -> None:
    """Drive every migration that has no live driver.

    It goes on until Ctrl-C or SIGTERM.
    """

    async def drive(at: Workspace) -> ExitCode:
        async with metrics.served(at, metrics_at) as address:
            at.out.say(
                f"{clock()}  driving every migration that is due; Ctrl-C stops, and loses nothing"
            )
            if address is not None:
                at.out.say(f"{clock()}  metrics at {address}")
            await _first_to_end(at.coordinator.work(), _print_changes(at), _warn(at))
        return ExitCode.DONE

    stopped = "stopped; another process may go on at once"
    perform(ctx, drive, interrupted=lambda: f"{clock()}  {stopped}", endless=True)


async def _first_to_end(*endless: Coroutine[Any, Any, None]) -> None:
    """Run them beside each other; what ends one of them ends all."""
    tasks = [asyncio.create_task(each) for each in endless]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _print_changes(at: Workspace) -> None:
    """A line for every change of state."""
    last: dict[UUID, Migration] = {}
    ask = partial(patiently, at)
    while True:
        known = {each.id: each for each in await ask(at.migrations.get_active)}
        ask = partial(patiently, at, was_let_in=True)
        over = [each for each in last if each not in known]
        ended = await ask(partial(at.migrations.get_many, over)) if over else []
        for migration in [*known.values(), *ended]:
            before = last.get(migration.id)
            if before is None or _at(before) != _at(migration):
                at.out.answer(described(migration), _state_line(at, migration))
        last = known
        await asyncio.sleep(LOOK_SECONDS)


def _at(migration: Migration) -> tuple[str, str]:
    """What has to change for another line."""
    return migration.state, without_ages(migration.error_message or "")


async def _warn(at: Workspace) -> None:
    """Once for each place that the control database turns out to be."""
    said, ask = None, partial(patiently, at)
    while True:
        elsewhere = await ask(partial(control_place.warning, at.control))
        ask = partial(patiently, at, was_let_in=True)
        if elsewhere is not None and elsewhere != said:
            at.out.warn(elsewhere)
        said = elsewhere
        await asyncio.sleep(CONTROL_SECONDS)


def _state_line(at: Workspace, migration: Migration) -> str:
    why = " ".join((migration.error_message or "").split())
    if needs := views.newer(migration):
        why = f"needs {needs}"
    elif (unknown := at.unknown_stores(migration)) and not migration.state.is_final:
        why = f"not driven here, {views.cannot_drive(unknown)}"
    return (
        f"{clock()}  {views.short(migration.id)}  tenant {migration.tenant_id}  {migration.state}"
        f"{f': {why}' if why else ''}"
    )
