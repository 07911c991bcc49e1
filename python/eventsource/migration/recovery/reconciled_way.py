"""A way back whose home has gone back: what only the old store has is named, and put back.

The old store has events that the tenant's home has lost: they were carried there, and are hidden.
Those that have a place in their streams go home, to the positions that they had. All of them are
kept in a table that no migration deletes from, and the way back goes on from what both hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from eventsource.migration.connections import waits
from eventsource.migration.connections.driver_connections import DriverConnections
from eventsource.migration.consistency.only_in import only_in
from eventsource.migration.driver.follower import HELD_SECONDS
from eventsource.migration.errors import MigrationError
from eventsource.migration.recovery import stranded
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.steps import put_back, rescue, way_back
from eventsource.migration.steps.standing_again import StandingAgain
from eventsource.migration.tables import progress, standby

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import Endpoints
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration
    from eventsource.migration.recovery.report import StrandedEvent
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.ways_back import WayBack
    from eventsource.tenant_ids import TenantId

#: How long somebody may follow it at a stretch (seconds), and how often it is asked for.
FOLLOWED_SECONDS, POLL_SECONDS = 10.0, 0.2


async def only_in_the_old_store(
    old: AnyTable, home: AnyTable, move: UUID, tenant_id: TenantId, kept_in: str
) -> list[StrandedEvent]:
    """Events that the way back of a move has carried and its home has lost; changes nothing."""
    above = await standby.decided_head(old, move)
    rows = [row async for row in only_in(old, home, tenant_id, above)]
    return await stranded.described(home, tenant_id, rows, kept_in)


async def reconcile_way_back(
    migrations: PostgreSQLMigrationRepository,
    endpoints: Endpoints,
    way: WayBack,
    move: Migration,
    operator: str | None,
) -> list[StrandedEvent]:
    """Bring home, old store and progress in line; what only the old store had, and its fate.

    Every step may be repeated.

    Args:
        endpoints: in the direction of the way back.

    Raises:
        MigrationError: another process follows it, or the old store does not know it.
    """
    ways, owner = WaysBack(migrations.pool), uuid4()
    await _take(ways, way, owner)
    try:
        connections = await DriverConnections.open(endpoints, way.id)
        try:
            events = await _reconcile(connections, way, move, owner)
        finally:
            await connections.close()
    finally:
        await ways.leave(way.id, owner, None)
    await migrations.audit(
        move.id, "way_back:reconciled",
        {
            "way_back": str(way.id),
            "only_in_the_old_store": [str(event.event_id) for event in events],
            "put_back": sum(event.was_put_back for event in events),
        },
        operator,
    )  # fmt: skip
    return events


async def _take(ways: WaysBack, way: WayBack, owner: UUID) -> None:
    """Follow it: a process that does so lets go within a moment, one that has died in a minute.

    Should this take longer than that, another process looks, finds that home has gone back and
    leaves it alone.
    """
    deadline = time.monotonic() + HELD_SECONDS + FOLLOWED_SECONDS
    async with waits.waiting(
        f"for the process that follows the way back of migration {way.migration_id}",
        f"given up after {HELD_SECONDS + FOLLOWED_SECONDS:.0f} s",
    ) as wait:
        while not await ways.follow(way.id, owner, HELD_SECONDS, ["standby", "closing"]):
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"another process follows the way back of migration {way.migration_id}; nothing"
                    " was changed: end `work`, and repair again"
                )
            await wait.goes_on()
            await asyncio.sleep(POLL_SECONDS)


async def _reconcile(
    connections: DriverConnections, way: WayBack, move: Migration, owner: UUID
) -> list[StrandedEvent]:
    home, old = connections.source, connections.target
    mapping = PostgreSQLPositionMappingRepository(connections.control)
    at = await progress.claim(old, way.id, owner)
    if at is None:
        raise way_back.lost(way)
    above = await standby.decided_head(old, move.id)
    rows = [row async for row in only_in(old, home, way.tenant_id, above)]
    events = await stranded.described(home, way.tenant_id, rows, way.target_store_id)
    await rescue.keep(old, way.id, [event.event_id for event in events])
    there = await _put_back(connections, way, mapping, rows, events)
    again = StandingAgain(
        home, way.source_store_id, old, mapping, move.id, at, above, way.generation
    )
    await again.run([row["global_position"] for row in rows])
    return [_with_its_fate(event, there) for event in events]


async def _put_back(
    connections: DriverConnections,
    way: WayBack,
    mapping: PostgreSQLPositionMappingRepository,
    rows: Sequence[Any],
    events: Sequence[StrandedEvent],
) -> set[UUID]:
    home, old = connections.source, connections.target

    async def recorded(some: Sequence[UUID]) -> dict[UUID, int]:
        return await mapping.sources_of([way.id], some)

    async def fits(some: Sequence[UUID]) -> list[UUID]:
        wanted = set(some)
        mine = [row for row in rows if row["event_id"] in wanted]
        again = await stranded.described(home, way.tenant_id, mine, way.target_store_id)
        return [each.event_id for each in again if each.conflict is None]

    fitting = [event.event_id for event in events if event.conflict is None]
    return await put_back.put_back(old, home, fitting, recorded, fits)


def _with_its_fate(event: StrandedEvent, there: set[UUID]) -> StrandedEvent:
    if event.event_id in there:
        return replace(event, was_put_back=True)
    return replace(event, conflict=event.conflict or "its place was taken meanwhile")
