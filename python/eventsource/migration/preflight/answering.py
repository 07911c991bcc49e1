"""A look at databases that must be over soon, and what is said where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.migration.connections import blockers
from eventsource.migration.errors import PreflightError

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: How long a database that has not answered is asked for the reason: this share of that time.
_REASON_SHARE = 0.2

#: Our own sessions that wait for a lock; those of others are shown without what they wait for.
_WAITING = """
select pid from pg_stat_activity
where usename = session_user and datname = current_database() and wait_event_type = 'Lock'
  and application_name = current_setting('application_name')
"""


async def within(
    seconds: float, check: Callable[[], Awaitable[Any]], places: Mapping[str, Executor]
) -> None:
    """Run a check that must answer soon; a database that does not is a problem of its own.

    Args:
        places: what the check asks, by what it is called.
    """
    looking = asyncio.ensure_future(check())
    try:
        await asyncio.wait({looking}, timeout=seconds)
        if looking.done():
            await looking
            return
        # While it still waits: who is in the way is not to be seen any more when it has ended.
        said = await _reasons(seconds, places)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    raise PreflightError(
        said or [f"a server did not answer within {seconds:g} s; check host, port and firewall"],
        passes=True,
    )


async def _reasons(seconds: float, places: Mapping[str, Executor]) -> list[str]:
    async def of(what: str, executor: Executor) -> str | None:
        late = f"{what} did not answer within {seconds:g} s"
        try:
            async with asyncio.timeout(seconds * _REASON_SHARE):
                waiting = [row["pid"] for row in await executor.fetch(_WAITING)]
                found = await blockers.of_sessions(executor, waiting)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return f"{late}; check host, port and firewall"
        if not found:
            return None
        who = "; ".join(map(str, found))
        end = ", ".join(f"select pg_terminate_backend({each.pid})" for each in found)
        return f"{late}: a table is locked there by {who}; wait for its end, or end it: {end}"

    said = await asyncio.gather(*(of(what, executor) for what, executor in places.items()))
    return [each for each in said if each is not None]
