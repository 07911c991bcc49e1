"""Pass 0: everything the first snapshot shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.migration.errors import ConsistencyError

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
        await self._prove()
        await self.passes.complete()
        return result

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
