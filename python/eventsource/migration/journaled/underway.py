"""What the passes of one migration share while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.migration.journaled.compaction import Compaction
from eventsource.migration.tables import witnesses

if TYPE_CHECKING:
    import asyncpg

    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.journaled.carriage import Carriage
    from eventsource.migration.journaled.transfer import Session, Transfer
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.progress import CopyProgress

    Connection = asyncpg.Connection[Any]


@dataclass(slots=True)
class Underway:
    """One migration of a layout on a driver's connections.

    ``at`` and ``agreed`` are what the progress row has, as last read or written by this driver;
    ``own`` are connections for the rows alone. Passes are numbered ``above`` those that a decision
    has named.
    """

    connections: DriverConnections
    migration: Migration
    owner: UUID
    at: CopyProgress
    agreed: Carriage
    transfer: Transfer
    session: Session
    fence_id: int
    rate: Callable[[], float | None] = lambda: None
    above: int = 0
    own: list[Connection] = field(default_factory=list)
    compaction: Compaction = field(default_factory=Compaction)

    async def barrier(self) -> None:
        """Commit at the source, flushed: nothing that was read before can be lost there."""
        await witnesses.stand_again(
            self.connections.source, self.migration.id, self.at.witness, self.at.source_system
        )

    async def rest(self) -> bool:
        """Between two chunks: wait as the rate asks; False when asked to stop.

        The journal is looked at first: it grows while a pass reads.
        """
        await self.compaction.when_due(
            self.connections.source, self.fence_id, self.migration.config.journal_max_bytes
        )
        # Asked again now and then: a stop or another rate comes meanwhile.
        due = self.session.due()
        if due > 0 and not self.session.stopping:
            await asyncio.sleep(min(due, 0.25))
            return await self.rest()
        return not self.session.stopping
