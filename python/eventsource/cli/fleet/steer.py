"""`fleet start`, `stop`, `resume`, `retry`: a wave as a whole."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsource.cli.exits import ExitCode
from eventsource.cli.fleet.common import WaveName, put_into_the_queue, waves_of
from eventsource.cli.invocation import perform
from eventsource.cli.workspace import Workspace
from eventsource.commands import command
from eventsource.counts import counted
from eventsource.fleet import Wave, WaveState


def start(ctx: typer.Context, name: WaveName) -> None:
    """Let a planned wave begin; `fleet work` carries it."""

    async def begin(at: Workspace) -> ExitCode:
        waves = waves_of(at)
        wave = await waves.start(await waves.get(name), at.operator)
        await put_into_the_queue(at)
        _answer(at, wave, f"wave {name} runs; `eventsource-migrate fleet work` carries it")
        return ExitCode.DONE

    perform(ctx, begin)


def stop(
    ctx: typer.Context,
    name: WaveName,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="For the record.")
    ] = "stopped by operator",
) -> None:
    """Let no more tenants of a wave cut over.

    Copies that are under way come to their end, and wait; a cutover that has begun is finished.
    """

    async def end(at: Workspace) -> ExitCode:
        waves = waves_of(at)
        wave = await waves.get(name)
        stopped = await waves.stop(wave, at.operator, reason)
        wave = await waves.get(name)
        said = "is stopped" if stopped else f"was {wave.state} already"
        _answer(at, wave, f"wave {name} {said}{_how_to_go_on(wave)}")
        return ExitCode.DONE

    perform(ctx, end)


def resume(ctx: typer.Context, name: WaveName) -> None:
    """Let a stopped wave go on, with the tenants that have no outcome yet."""

    async def go_on(at: Workspace) -> ExitCode:
        waves = waves_of(at)
        wave = await waves.resume(await waves.get(name), at.operator)
        await put_into_the_queue(at)
        _answer(at, wave, f"wave {name} is {wave.state}")
        return ExitCode.DONE

    perform(ctx, go_on)


def retry(
    ctx: typer.Context,
    name: WaveName,
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="[TENANT]", help="Without it, all that did not move."),
    ] = None,
) -> None:
    """Try tenants again that were refused, have failed or are held."""

    async def again(at: Workspace) -> ExitCode:
        waves = waves_of(at)
        wave = await waves.get(name)
        count = await waves.retry(wave, at.operator, None if tenant is None else at.tenant(tenant))
        await put_into_the_queue(at)
        wave = await waves.get(name)
        which = counted(count, "tenant")
        at.out.answer(
            {"wave": wave, "tenants": count},
            f"{which} of wave {name} may try again; the wave is {wave.state}",
        )
        return ExitCode.DONE

    perform(ctx, again)


def _how_to_go_on(wave: Wave) -> str:
    """What makes tenants of it move; nothing for a wave that has come to its end."""
    match wave.state:
        case WaveState.STOPPED:
            return f"; go on: {command('fleet resume', wave.name)}"
        case WaveState.PLANNED:
            return f", and nothing of it moves; begin: {command('fleet start', wave.name)}"
        case _:
            return ""


def _answer(at: Workspace, wave: Wave, shown: str) -> None:
    at.out.answer({"wave": wave}, shown)
