"""Asking at the terminal before something that cannot be taken back, and what to know before it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys

import asyncpg

from eventsource.cli import prospects
from eventsource.cli.fitting import folded
from eventsource.cli.workspace import Workspace
from eventsource.counts import counted
from eventsource.errors import EventSourceError
from eventsource.migration import Migration
from eventsource.migration.connections import blockers
from eventsource.migration.event_table import of_store
from eventsource.migration.rehearsals import foretold
from eventsource.migration.repositories.router_reports import said
from eventsource.migration.repositories.ways_back import WayBack
from eventsource.migration.tables import fences

#: An append that has been in flight for longer is worth a word before the cutover (seconds).
LONG = 1.0

#: How long the source may take to say who is in the way (seconds).
PATIENCE = 2.0


def at_a_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stdout.isatty()


async def confirmed(question: str) -> bool:
    """Ask at the terminal; False when there is none to ask at.

    The answer is awaited in the event loop and not in a thread: meanwhile the driver goes on, and
    Ctrl-C does not have to wait for a line that nobody types.
    """
    if not at_a_terminal():
        return False
    loop = asyncio.get_running_loop()
    typed = asyncio.Event()
    screen = shutil.get_terminal_size().columns
    # As one: who reads the question sees the blank as well before an answer comes.
    print(f"{folded(f'{question} [y/N]', screen - 2)} ", end="", flush=True)
    loop.add_reader(sys.stdin.fileno(), typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
        if not typed.is_set():
            print()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def of_cutover(at: Workspace, migration: Migration, most: float | None = None) -> str:
    """What is asked before a cutover: how long writers may wait, who is in the way now, and
    whether the tenant can be taken back afterwards."""
    budget = most or migration.config.cutover_timeout_seconds
    return (
        f"Cut over now? The tenant's writers wait for some milliseconds, at most {budget:g} s;"
        f" {await _rehearsed(at, migration)};"
        f" {await _in_the_way(at, migration.source_store_id, migration)}"
        f"{await _unready(at, migration)}; {await prospects.clause(at, migration)}."
    )


async def of_return(
    at: Workspace, migration: Migration, way: WayBack, most: float | None = None
) -> str:
    """What is asked before a tenant is taken back."""
    budget = most or migration.config.cutover_timeout_seconds
    lag = (
        ""
        if way.lag is None
        else f"; {counted(way.lag, 'event was', 'events were')} to be carried at the last look"
    )
    return (
        f"Take tenant {way.tenant_id} back to {way.target_store_id!r} now, with every new event?"
        f" Its writers wait for some milliseconds, at most {budget:g} s{lag};"
        f" {await _in_the_way(at, way.source_store_id, migration)}."
    )


async def _rehearsed(at: Workspace, migration: Migration) -> str:
    found = foretold(await at.coordinator.rehearsals(migration.id))
    return found or "it was not rehearsed (--rehearse)"


async def _unready(at: Workspace, migration: Migration) -> str:
    """For whose sake the cutover would be refused."""
    reports = await at.coordinator.routers(migration.id)
    unready = [each for each in reports if each.is_waited_for]
    found = f"; could not write at the target: {said(unready)}" if unready else ""
    silent = await unreported(at, migration)
    if silent == 0:
        return found
    number = "not known" if silent is None else silent
    return f"{found}; sessions that may append and have not reported: {number}"


async def unreported(at: Workspace, migration: Migration) -> int | None:
    """How many sessions at the source belong to no router that has reported; None is not known."""
    if migration.state.is_final:
        return None
    with contextlib.suppress(EventSourceError, asyncpg.PostgresError, OSError):
        async with asyncio.timeout(PATIENCE):
            return await at.coordinator.unreported_sessions(migration.id)
    return None


async def _in_the_way(at: Workspace, leaves: str, migration: Migration) -> str:
    with contextlib.suppress(EventSourceError, asyncpg.PostgresError, OSError, KeyError):
        async with asyncio.timeout(PATIENCE):
            source = await of_store(at.stores[leaves])
            fence = await fences.read(source, migration.tenant_id)
            if fence is None:
                return "the fence is not there yet"
            found = await blockers.of_fence(
                source.connection, fences.LOCK_CLASS, fence.lock_id, LONG
            )
            if found:
                return f"in the way now: {'; '.join(map(str, found))}"
            return "nobody is in the way"
    return "who is in the way cannot be seen now"
