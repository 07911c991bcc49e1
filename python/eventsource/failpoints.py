"""Named moments at which a test kills, freezes, fails or holds up a process of the product.

``EVENTSOURCE_FAILPOINTS`` arms some of them for a whole process, in Python and in the data plane::

    EVENTSOURCE_FAILPOINTS="cutover.fence.wait=wait;cutover.delta.copied=kill@2"

Each acts once, at its first arrival or at the one after ``@``:

- ``kill``: SIGKILL to itself, as from ``kill -9``.
- ``freeze``: SIGSTOP to itself; somebody else continues it.
- ``error``: an error that does not heal by trying again.
- ``lose``: the connection is lost right here. Where a name ends in ``committed`` the COMMIT has
  just been carried out, so it is the reply that is lost.
- ``wait``: stands still, while the rest of the process goes on, until the gate is opened.

With ``EVENTSOURCE_FAILPOINTS_DIRECTORY`` an arrival that acts first makes the file
``NAME.reached`` there, and a gate opens when ``NAME.released`` appears. The points of the data
plane are compiled only into development builds; see ``eventsource._core.HAS_FAILPOINTS``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

#: Every moment, in the order of a move. The first word says which part of it; a name that ends in
#: ``committed`` comes right after a COMMIT.
Failpoint = Literal[
    "preflight.passed",
    "start.committed",
    "lease.committed",
    "guard.target.row.committed",
    "guard.target.reserved",
    "guard.target.triggers.committed",
    "guard.source.row.committed",
    "guard.source.bound.committed",
    "guard.source.created",
    "guard.source.triggers.committed",
    "guard.progress.committed",
    "snapshot.taken",
    "snapshot.barrier.committed",
    "snapshot.stored.committed",
    "journal.transition",
    "bulk.entered.committed",
    "bulk.chunk.read",
    "bulk.chunk.copied",
    "bulk.mapping.locked",
    "bulk.mapping.committed",
    "bulk.chunk.recorded",
    "bulk.chunk.committed",
    "bulk.range.proven",
    "bulk.copied",
    "load.index.committed",
    "load.restored",
    "load.finished.committed",
    "bulk.completed.committed",
    "follow.entered.committed",
    "pass.chunk.read",
    "pass.mapping.committed",
    "pass.chunk.copied",
    "pass.chunk.proven",
    "pass.chunk.committed",
    "pass.completed.committed",
    "layout.chunk.read",
    "layout.chunk.written",
    "layout.chunk.committed",
    "layout.exact.read",
    "layout.exact.written",
    "layout.exact.committed",
    "layout.portion.written",
    "layout.flip.committed",
    "layout.numbers.committed",
    "layout.abort.committed",
    "pause.committed",
    "resume.committed",
    "rehearsal.proven",
    "rehearsal.ended.committed",
    "cutover.verified",
    "keep.recorded.committed",
    "keep.standby.committed",
    "keep.guard.committed",
    "keep.snapshot.committed",
    "keep.armed.committed",
    "cutover.entered.committed",
    "cutover.pass.committed",
    "cutover.fence.wait",
    "cutover.fence.held",
    "cutover.barrier.committed",
    "cutover.delta.read",
    "cutover.mapping.committed",
    "cutover.delta.copied",
    "cutover.delta.proven",
    "cutover.delta.committed",
    "cutover.decision.before",
    "cutover.decision.sent",
    "cutover.decision.committed",
    "flip.target.before",
    "flip.target.committed",
    "flip.journal.committed",
    "flip.route.committed",
    "flip.answer.committed",
    "flip.arrival.dropped",
    "recovery.claimed.committed",
    "recovery.lock.held",
    "repair.carried.committed",
    "repair.proof.committed",
    "recovery.decided",
    "subscriptions.planned",
    "subscriptions.checkpoint.committed",
    "return.rested.committed",
    "close.retired.committed",
    "close.guard.committed",
    "cleanup.portion.committed",
    "abort.decided",
    "abort.guard.dropped",
    "abort.guard.committed",
    "abort.claimed.committed",
    "abort.begun.committed",
    "abort.rescued.committed",
    "abort.rows.committed",
    "abort.target.committed",
    "abort.mapping.committed",
    "abort.progress.committed",
    "abort.barrier.committed",
    "abort.state.committed",
]

#: What a failpoint can do.
Action = Literal["kill", "freeze", "error", "lose", "wait"]

FAILPOINTS: tuple[Failpoint, ...] = get_args(Failpoint)
ACTIONS: tuple[Action, ...] = get_args(Action)

#: Environment variables; the data plane reads the same ones.
ARMED_VARIABLE, DIRECTORY_VARIABLE = "EVENTSOURCE_FAILPOINTS", "EVENTSOURCE_FAILPOINTS_DIRECTORY"

#: How often a gate looks whether it was opened (seconds).
GATE_SECONDS = 0.005

_T = TypeVar("_T")


class FailpointError(Exception):
    """A failpoint that was armed with ``error``."""


@dataclass(slots=True)
class _Plan:
    armed: Mapping[str, tuple[str, int]]
    directory: Path | None
    arrivals: Counter[str] = field(default_factory=Counter)

    async def reached(self, name: str) -> None:
        if name not in FAILPOINTS:
            raise ValueError(f"{name!r} is not a failpoint; eventsource.failpoints lists them")
        if name not in self.armed:
            return
        action, arrival = self.armed[name]
        self.arrivals[name] += 1
        if self.arrivals[name] != arrival:
            return
        if self.directory is not None:
            (self.directory / f"{name}.reached").touch()
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "error":
            raise FailpointError(f"failpoint {name}")
        elif action == "lose":
            raise ConnectionResetError(f"failpoint {name}: the connection is lost")
        else:
            assert self.directory is not None
            # Another process opens the gate.
            while not (self.directory / f"{name}.released").exists():  # noqa: ASYNC110
                await asyncio.sleep(GATE_SECONDS)


def parse(armed: str) -> dict[str, tuple[str, int]]:
    """Action and arrival by name; ValueError says what is not understood."""
    points: dict[str, tuple[str, int]] = {}
    for item in filter(None, armed.split(";")):
        name, _, what = item.partition("=")
        action, _, arrival = what.partition("@")
        if name not in FAILPOINTS:
            raise ValueError(f"{ARMED_VARIABLE}: {name!r} is not a failpoint")
        if action not in ACTIONS:
            raise ValueError(f"{ARMED_VARIABLE}: {name} cannot {action!r}; {', '.join(ACTIONS)}")
        points[name] = action, int(arrival or 1)
    return points


def _from_environment() -> _Plan | None:
    armed = parse(os.environ.get(ARMED_VARIABLE, ""))
    if not armed:
        return None
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory is None and any(action == "wait" for action, _ in armed.values()):
        raise ValueError(f"{ARMED_VARIABLE}: a gate needs {DIRECTORY_VARIABLE}")
    return _Plan(armed, Path(directory) if directory else None)


_plan = _from_environment()


def arm() -> None:
    """Read the environment again: for a process that was forked and not started."""
    global _plan
    _plan = _from_environment()


async def reach(name: Failpoint) -> None:
    """Arrive at ``name``: nothing happens unless it is armed."""
    if _plan is not None:
        await _plan.reached(name)


async def in_flight(name: Failpoint, request: Coroutine[Any, Any, _T]) -> _T:
    """Await ``request``, and arrive when it is sent and its answer is not read yet."""
    if _plan is None:
        return await request
    answer = asyncio.create_task(request)
    # asyncpg writes to the socket in the first step of a query.
    await asyncio.sleep(0)
    try:
        await _plan.reached(name)
    except BaseException:
        answer.cancel()
        raise
    return await answer
