"""Saying at the terminal what a command waits for, while it waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from eventsource.cli import logs, views
from eventsource.cli.workspace import Workspace, patiently
from eventsource.counts import counted
from eventsource.migration import Migration, MigrationState
from eventsource.migration.driver.lease import process_name
from eventsource.said import without_ages

T = TypeVar("T")

#: What is answered sooner needs no word but the driver's own (seconds).
SILENT_SECONDS = 2.5

#: How often the journal is read (seconds).
LOOK_SECONDS = 0.5


async def beside(
    at: Workspace,
    migration_id: UUID,
    asked: Awaitable[T],
    say: Callable[[str], None] | None = None,
) -> T:
    """Await what was asked for; say meanwhile what it waits for, and when that has changed."""
    watching = asyncio.create_task(
        _tell(at, migration_id, say or at.out.wait, redrawn=say is not None)
    )
    try:
        with logs.waits_said_elsewhere():
            return await asked
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await watching


async def _tell(
    at: Workspace, migration_id: UUID, say: Callable[[str], None], *, redrawn: bool
) -> None:
    began, said = time.monotonic(), ""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        migration = await patiently(at, partial(at.migrations.get, migration_id))
        waited = time.monotonic() - began
        reason = what_it_waits_for(migration, at.unknown_stores(migration))
        key = reason if redrawn else without_ages(reason)
        if key != said and (waited > SILENT_SECONDS or migration.error_message):
            say(reason)
            said = key


def what_it_waits_for(migration: Migration, unknown: Sequence[str] = ()) -> str:
    """In a sentence: what has to come before the migration does what was asked.

    Args:
        unknown: stores of it that this process does not have.
    """
    if unknown and not migration.driver_alive:
        return f"for a driver: {views.cannot_drive(unknown)}"
    if migration.error_message and not migration.state.is_final:
        return migration.error_message.removeprefix("waiting ").removeprefix("waiting: ")
    if not migration.driver_alive:
        return "for a driver: this process takes it up"
    if migration.driver_expires_at is None or migration.driver_name is None:
        return f"for the driver, the migration is {migration.state}"
    is_ours = migration.driver_name == process_name()
    who = "this process" if is_ours else f"driver {migration.driver_name}"
    if migration.state is MigrationState.BULK_COPY:
        limit = migration.config.max_events_per_second
        held = "" if limit is None else f", limited to {counted(limit, 'event')}/s"
        share = f"{migration.progress_percentage:.0f} %"
        return f"for {who}, which copies ({share}{held})"
    if is_ours:
        return f"for this process, which drives it; the migration is {migration.state}"
    # What it is at takes long; or it is dead, and then its lease ends by itself.
    return (
        f"for {who}; the migration is {migration.state}, and if it is gone"
        f" another one follows {migration.config.lease_seconds:g} s after its last sign of life"
    )
