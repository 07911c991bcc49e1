"""Pass 0: everything the first snapshot shows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource import failpoints
from eventsource.migration.connections.driver_connections import close_all
from eventsource.migration.errors import MissingRowError
from eventsource.migration.tables import deferred_indexes, fences

if TYPE_CHECKING:
    import asyncpg

    from eventsource.dataplane import PassResult
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration
    from eventsource.migration.steps.passes import Passes


@dataclass(frozen=True, slots=True)
class BulkCopier:
    """Copies and proves the tenant's history; resumes at the last committed chunk.

    Args:
        passes: the migration's passes, with S(0) stored.
    """

    passes: Passes

    async def run(self, stopped: asyncio.Event | None = None) -> PassResult | None:
        """Pass 0, from its stored snapshot and cursor; None when asked to stop on the way.

        Every chunk is read back while the next ones are written, so what is copied is proven.
        ``stopped`` ends the building of indexes as well, which begins again when it is resumed.

        Raises:
            DataPlaneError: kind `inconsistent`, the target's rows are not the ones that were read.
        """
        await self.passes.refuse_late_triggers()
        if not self.passes.at.pass_is_open:
            # A copy that begins again: see `progress.begin_again`.
            await self.passes.begin()
        result = await self.passes.run_stored()
        if not result.finished:
            return None
        await failpoints.reach("bulk.copied")
        if not await build_indexes(self.passes.connections, self.passes.migration, stopped):
            return None
        await self.passes.complete()
        await failpoints.reach("bulk.completed.committed")
        return result


async def build_indexes(
    connections: DriverConnections, migration: Migration, stopped: asyncio.Event | None = None
) -> bool:
    """Build what a load did without, side by side on as many connections as it had.

    False when it was asked to stop on the way.

    Raises:
        MissingRowError: the target has no fence of the migration.
    """
    target = connections.target
    missing = await deferred_indexes.deferred(target, migration.id)
    if missing is None:
        return True
    fence = await fences.of_migration(target, migration.id, "target")
    if fence is None:
        raise MissingRowError(
            "the fence at the target is not there: check that the dsn leads to the database"
            " where the migration began; if the row was removed by hand, abort the migration"
        )
    helpers: list[asyncpg.Connection[Any]] = []
    try:
        while 1 + len(helpers) < min(migration.config.copy_jobs, len(missing)):
            helpers.append(await connections.open_target(migration.id))
        return await deferred_indexes.build(target, helpers, migration, fence, stopped)
    finally:
        await close_all(helpers)
