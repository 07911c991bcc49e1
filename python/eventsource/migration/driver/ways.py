"""What a driver does otherwise for our own tables than for those of a layout."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.migration.journaled.way import LayoutTables
from eventsource.migration.steps import abort, fitness, mapping, preparation
from eventsource.migration.steps.bulk_copy import BulkCopier
from eventsource.migration.steps.cutover import Cutover
from eventsource.migration.steps.passes import Passes, Prepared
from eventsource.migration.steps.repair import Repair
from eventsource.migration.tables import brief_locks, deferred_indexes, fences, guard

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import OwnTable, Seen
    from eventsource.migration.models import CutoverRequest, Migration
    from eventsource.migration.steps.decision import Decision
    from eventsource.migration.tables.fences import Fence


class OwnTables:
    """The tables of this package's stores."""

    async def prepare(
        self,
        connections: DriverConnections,
        migration: Migration,
        owner: UUID,
        carry_on: Callable[[], bool],
    ) -> Prepared:
        """Fences, guard and numbers, for the first pass.

        Raises:
            LockNeverGranted: ``carry_on`` said no.
        """
        return await preparation.prepare(connections, migration, owner, carry_on)

    async def count(self, source: OwnTable, passes: Passes, most: int | None = None) -> int | None:
        """How many rows there are to carry at first; None for more than ``most``.

        Nothing is asked but ``source``: the passes may be running.
        """
        return await preparation.count_tenant(source, passes.migration.tenant_id, passes.at, most)

    async def open_passes(
        self,
        connections: DriverConnections,
        migration: Migration,
        owner: UUID,
        rate: Callable[[], float | None],
        prepared: Prepared | None = None,
    ) -> Passes:
        """What runs the passes."""
        return await Passes.open(connections, migration, owner, rate, prepared=prepared)

    async def copy(self, passes: Passes, stopped: asyncio.Event) -> bool:
        """The first pass; False when asked to stop on the way."""
        return await BulkCopier(passes).run(stopped) is not None

    async def after_the_copy(self, connections: DriverConnections) -> None:
        """What is better done before anybody reads there."""
        await deferred_indexes.first_statistics(connections.target)

    async def check(self, connections: DriverConnections, migration: Migration) -> Seen:
        """Before writers are made to wait: what would have refused the start."""
        return await fitness.check(connections, migration)

    async def verify(
        self, connections: DriverConnections, migration: Migration, seen: Seen
    ) -> None:
        """Compare both stores before the fence is asked for; raises ConsistencyError."""
        # Comes with what compares, which most processes never need.
        from eventsource.migration.driver.verification import verify

        await verify(connections, migration, seen)

    async def cutover(
        self,
        connections: DriverConnections,
        migration: Migration,
        passes: Passes,
        fence: Fence,
        asked: CutoverRequest,
    ) -> Cutover:
        """One cutover or its rehearsal, with everything prepared that can be."""
        return await Cutover.ready(connections, migration, passes, fence, asked)

    async def abort(
        self, connections: DriverConnections, migration: Migration, owner: UUID
    ) -> bool:
        """Undo everything; False when the tenant has moved."""
        return await abort.carry_out(connections, migration, owner)

    async def mend(
        self, side: str, table: OwnTable, migration: Migration, carry_on: Callable[[], bool]
    ) -> None:
        """Make triggers again that others have taken away."""
        fence = await fences.of_migration(table, migration.id, side)
        if fence is None:
            return
        # Asked to stop while others hold the table, it obeys at the next chunk.
        with contextlib.suppress(brief_locks.LockNeverGranted):
            loading = await deferred_indexes.deferred(table, migration.id) is not None
            await guard.mend(table, fence, migration.tenant_id, carry_on, loading=loading)

    async def opened(
        self, connections: DriverConnections, migration: Migration, decided: Decision
    ) -> None:
        """What the target needs once the tenant lives there: all of its positions mapped."""
        # The control database may have gone back to before some of them were.
        await mapping.complete_if_it_lacks(connections, migration, decided.source_head)

    async def tidy(self, connections: DriverConnections, migration: Migration) -> None:
        """Take away what let the tenant arrive, where that waits for nobody."""
        await guard.drop_idle(connections.target)

    async def repair(
        self,
        connections: DriverConnections,
        migration: Migration,
        owner: UUID,
        decided: Decision,
    ) -> Decision:
        """Carry to a closed target what it lacks of a tenant that has moved."""
        # What waits for it is the tenant: nothing is held to a rate.
        return await Repair(connections, migration, owner, carry_on=lambda: True).run(decided)


def way_of(connections: DriverConnections) -> Any:
    """That of the source's tables."""
    if connections.source.layout is None:
        return OwnTables()
    return LayoutTables()
