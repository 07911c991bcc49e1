"""`fleet report`: what became of each tenant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventsource.cli import files
from eventsource.cli.exits import ExitCode
from eventsource.cli.fleet.common import WaveName, waves_of
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, columns, to_json
from eventsource.cli.workspace import Workspace
from eventsource.fleet import Wave
from eventsource.fleet import report as reporting
from eventsource.fleet.report import Reported

FORMATS = ("table", "json", "csv", "html")


def report(
    ctx: typer.Context,
    name: WaveName,
    shape: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="table, json, csv or html.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="PATH", help="Write it to a file.")
    ] = None,
) -> None:
    """Say of each tenant of a wave what was proven, how long its pause was, and where it ended."""
    if shape not in FORMATS:
        raise typer.BadParameter(f"{shape!r}: write {', '.join(FORMATS)}", param_hint="--format")

    async def write(at: Workspace) -> ExitCode:
        files.refuse_unwritable(output, "--output")
        waves = waves_of(at)
        wave = await waves.get(name)
        rows = await reporting.rows_of(waves, wave)
        text = _written(wave, rows, shape, at.out.screen if output is None else None)
        if output is None:
            at.out.answer({"wave": wave, "tenants": rows}, text)
            return ExitCode.DONE
        files.write(output, text if text.endswith("\n") else f"{text}\n")
        at.out.answer({"written": str(output), "tenants": len(rows)}, f"written to {output}")
        return ExitCode.DONE

    perform(ctx, write)


def _written(wave: Wave, rows: list[Reported], shape: str, screen: int | None) -> str:
    match shape:
        case "json":
            return to_json({"wave": wave, "tenants": rows})
        case "csv":
            return reporting.as_csv(rows)
        case "html":
            return reporting.as_html(wave, rows)
    return columns(
        ("tenant", "from", "to", "outcome", "events", "proof", "pause", "last position", "why"),
        (
            (
                each.tenant_id,
                each.source_store_id,
                each.target_store_id,
                each.outcome,
                None if each.events is None else amount(each.events),
                each.proof,
                None if each.pause_ms is None else f"{each.pause_ms:.1f} ms",
                each.last_target_position,
                each.error_message,
            )
            for each in rows
        ),
        screen,
    )
