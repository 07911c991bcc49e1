"""Pass 0: everything the first snapshot shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource import failpoints
from eventsource.migration import deferred_indexes, guard
from eventsource.migration.errors import ConsistencyError, MigrationError
from eventsource.migration.links import close_all

if TYPE_CHECKING:
    from eventsource.dataplane import PassResult
    from eventsource.migration.passes import Passes


@dataclass(frozen=True, slots=True)
class BulkCopier:
    """Copies and proves the tenant's history; resumes at the last committed chunk.

    Args:
        passes: the migration's passes, with S(0) stored.
    """

    passes: Passes

    async def run(self) -> PassResult | None:
        """Pass 0, from its stored snapshot and cursor; None when asked to stop on the way.

        Raises:
            ConsistencyError: the target's rows are not the ones that were read.
        """
        result = await self.passes.run_stored()
        if not result.finished:
            return None
        await failpoints.reach("bulk.copied")
        await self._build_indexes()
        await self._prove()
        await failpoints.reach("bulk.proven")
        await self.passes.complete()
        await failpoints.reach("bulk.completed.committed")
        return result

    async def _build_indexes(self) -> None:
        """Build what the load did without, on two connections side by side."""
        links, migration = self.passes.links, self.passes.migration
        target = links.endpoints.target_address
        if await deferred_indexes.deferred(links.target, target, migration.id) is None:
            return
        fence = await guard.read(links.target, target, migration.tenant_id)
        if fence is None:
            raise MigrationError("the fence at the target was removed by hand; abort the migration")
        second = await links.open_target(migration.id)
        try:
            await deferred_indexes.build((links.target, second), target, migration.id, fence)
        finally:
            await close_all([second])

    async def _prove(self) -> None:
        """Read the target back: later passes prove row by row before they commit, this one after.

        Nothing but pass 0 has written the tenant's rows yet, so the digests cover the same set.
        """
        await self.passes.refresh()
        at = self.passes.at
        found = await self.passes.session.digest_target(None)
        if (found.rows, found.digest) != (at.pass_rows, at.pass_digest):
            raise ConsistencyError(
                f"the target holds {found.rows} events of the tenant where {at.pass_rows} were read"
                " from the source, or holds them changed; run `verify` to name them, then abort"
                " and start again"
            )
