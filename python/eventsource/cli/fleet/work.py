"""`fleet work`: one machine of a fleet."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated
from uuid import UUID

import typer

from eventsource.cli.exits import ExitCode
from eventsource.cli.fleet.common import bounds_of, waves_of
from eventsource.cli.invocation import perform
from eventsource.cli.output import clock
from eventsource.cli.workspace import Workspace, own_pool, patiently
from eventsource.fleet import Carrier, Wave, WaveRepository, WaveState

#: How often it looks for something to print, or whether all is done (seconds).
LOOK_SECONDS = 1.0


def work(
    ctx: typer.Context,
    at_once: Annotated[
        int,
        typer.Option(
            "--at-once", metavar="NUMBER", min=2, max=100, help="Tenants that this process moves."
        ),
    ] = 4,
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when no running wave has work left.")
    ] = False,
) -> None:
    """Carry the tenants of all running waves.

    Run it on any number of machines. It goes on until Ctrl-C or SIGTERM; what it was moving then
    goes on in another one.
    """

    async def carry(at: Workspace) -> ExitCode:
        from eventsource.fleet.queue import Queue, Worker

        async with own_pool(at.settings, max_size=6) as pool:
            waves = waves_of(at)
            worker = Worker(
                Carrier(at.coordinator, waves, at.operator, bounds=bounds_of(at)),
                waves,
                Queue(pool, at.settings.groups),
                at.settings.group_limits,
                at_once,
            )
            carrying = "carrying the tenants of all running waves; Ctrl-C stops, and loses nothing"
            at.out.say(f"{clock()}  {carrying}")
            working = asyncio.create_task(worker.run())
            watching = asyncio.create_task(_print_outcomes(at, waves, until_done))
            try:
                await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
                for task in (working, watching):
                    if task.done():
                        task.result()
            finally:
                worker.stopping.set()
                watching.cancel()
                await asyncio.wait({working}, timeout=20)
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await working
        return ExitCode.DONE

    stopped = "stopped; what it was moving goes on in another process"
    perform(ctx, carry, interrupted=lambda: f"{clock()}  {stopped}", endless=True)


async def _print_outcomes(at: Workspace, waves: WaveRepository, until_done: bool) -> None:
    """A line for each tenant that has an outcome since this process began, of whichever worker."""
    seen: dict[UUID, dict[str, int]] = {}

    async def look() -> list[tuple[Wave, dict[str, int]]]:
        """The waves that run, and those that have run until now."""
        running = await waves.in_state(WaveState.RUNNING)
        over = seen.keys() - {each.id for each in running}
        looked_at = [*running, *await waves.get_many(list(over))] if over else running
        return [
            (each, {what: share.tenants for what, share in (await waves.summary(each)).items()})
            for each in looked_at
        ]

    while True:
        found = await patiently(at, look)
        for wave, counts in found:
            if counts != seen.get(wave.id) or wave.state is not WaveState.RUNNING:
                text = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
                at.out.answer(
                    {"wave": wave.name, "state": wave.state, "tenants": counts},
                    f"{clock()}  wave {wave.name} is {wave.state}: {text}",
                )
        # One that is over is looked at once more, and no more.
        seen = {wave.id: counts for wave, counts in found if wave.state is WaveState.RUNNING}
        if until_done and not seen:
            return
        await asyncio.sleep(LOOK_SECONDS)
