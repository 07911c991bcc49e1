"""`demo`: see a tenant move, on two throw-away servers, with writers that never stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from eventsource.cli.demo.result import DemoResult
from eventsource.cli.demo.story import Extent, play
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import invocation_of, run
from eventsource.cli.output import Output, grid, record

_DEFAULT = Extent()


def demo(
    ctx: typer.Context,
    events: Annotated[
        int, typer.Option("--events", min=1, max=5_000_000, help="Events of the moving tenant.")
    ] = _DEFAULT.events,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.1, max=600, help="Writing before and after the move."),
    ] = _DEFAULT.seconds,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Keep the report of the return, as HTML."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the servers afterwards, until Ctrl-C.")
    ] = False,
) -> None:
    """Watch a tenant move between two embedded servers, and return.

    Writers append to all tenants meanwhile, and a checker reads both servers afterwards. Needs no
    configuration and no PostgreSQL. Exit code 4 if anything was lost.
    """
    invocation = invocation_of(ctx)
    if report is not None and not report.absolute().parent.is_dir():
        raise typer.BadParameter(f"--report: there is no directory {report.absolute().parent}")
    shown: list[DemoResult] = []

    async def show(result: DemoResult, configuration: Path) -> None:
        shown.append(result)
        _show(invocation.out, result)
        if keep:
            invocation.out.say(
                f"\nthe servers stay until Ctrl-C; try in another terminal:\n"
                f"  export EVENTSOURCE_CONFIG={configuration}\n"
                "  eventsource-migrate list"
            )
            await asyncio.Event().wait()

    async def play_it() -> ExitCode:
        result = await play(Extent(events=events, seconds=seconds), invocation.out, show, report)
        return ExitCode.DONE if result.is_sound else ExitCode.INCONSISTENT

    run(
        invocation,
        play_it,
        interrupted=lambda: "stopped; servers, writers and files are gone",
    )


def _show(out: Output, result: DemoResult) -> None:
    out.answer(
        {**record(result), "is_sound": result.is_sound},
        "",
        grid(*result.rows()),
    )
    for violation in (*result.violations, *result.others_violations):
        out.warn(violation)
    if not out.as_json:
        verdict = "every promise kept" if result.is_sound else "PROMISES BROKEN"
        out.say(f"\n{verdict}, checked with plain SQL on both servers; {result.seconds:.0f} s")
