"""What is said of the way back before the cutover, while something can still be changed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import asyncpg

from eventsource.cli.config import ConfigError
from eventsource.cli.output import duration
from eventsource.errors import EventSourceError
from eventsource.migration import MigrationConfig
from eventsource.migration.errors import PreflightError
from eventsource.migration.steps.way_back import required

if TYPE_CHECKING:
    from eventsource.cli.workspace import Workspace
    from eventsource.migration import Migration
    from eventsource.migration.operations.prospects import Prospect

#: How long the stores may take to say whether there can be one (seconds).
PATIENCE = 2.0

_DAY = 86400


def seconds_kept(text: str | None) -> float | None:
    """The time of `--keep-way-back`, or None where it is not given.

    Raises:
        ConfigError: it is no time, or out of range.
    """
    if text is None:
        return None
    try:
        return MigrationConfig(keep_way_back=text).keep_way_back  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"--keep-way-back: {error}") from None


def refuse_without(prospect: Prospect) -> None:
    """Raise PreflightError where somebody has asked for a way back that cannot be kept."""
    if prospect.refusals:
        raise PreflightError([required("; ".join(prospect.refusals))])


def rows(prospect: Prospect) -> list[tuple[str, object]]:
    """For `plan`."""
    if prospect.why_not is not None:
        return [("way back", f"none: {prospect.why_not}")]
    kept = ("way back", f"kept for {_time(prospect.keep_seconds)} after the cutover")
    if prospect.role is None:
        return [kept]
    one = (
        f"{prospect.role!r} does all, as far as is known: only a setting distinguishes the way"
        " back's sessions at the old store from others"
    )
    return [kept, ("roles", one)]


async def clause(at: Workspace, migration: Migration) -> str:
    """For the question before a cutover."""
    with contextlib.suppress(EventSourceError, asyncpg.PostgresError, OSError, KeyError):
        async with asyncio.timeout(PATIENCE):
            prospect = await at.coordinator.way_back_prospect(
                at.stores[migration.source_store_id],
                at.stores[migration.target_store_id],
                migration.config,
            )
        if prospect.why_not is not None:
            return f"there will be no way back ({prospect.why_not})"
        return f"it may return for {_time(prospect.keep_seconds)} after that"
    return "whether it may return after that cannot be seen now"


def _time(seconds: float) -> str:
    days = seconds / _DAY
    if days < 1 or not days.is_integer():
        return duration(seconds)
    return "a day" if days == 1 else f"{days:.0f} days"
