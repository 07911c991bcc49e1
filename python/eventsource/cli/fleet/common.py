"""What the verbs of a fleet share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eventsource.cli.workspace import Workspace
from eventsource.fleet import WaveRepository
from eventsource.fleet.disk import Bounds

if TYPE_CHECKING:
    from eventsource.fleet.queue import Queue

WaveName = Annotated[str, typer.Argument(metavar="WAVE")]


def waves_of(at: Workspace) -> WaveRepository:
    """The waves of the control database."""
    return WaveRepository(at.control)


def bounds_of(at: Workspace) -> Bounds:
    """What may lie on the disks of the stores."""
    return Bounds(at.settings.fleet.max_disk, at.settings.groups, at.stores)


def queue_of(at: Workspace) -> Queue:
    """The queue in the control database; WaveError where the library is not installed."""
    from eventsource.fleet.queue import Queue

    return Queue(at.control, at.settings.groups)


async def put_into_the_queue(at: Workspace) -> None:
    """Let the workers begin at once. Where that fails they find it within a minute themselves."""
    try:
        queue = queue_of(at)
    except Exception as error:
        at.out.warn(f"{error}; a machine that runs `fleet work` finds the wave within a minute")
        return
    await queue.make()
    await queue.refill(waves_of(at))
