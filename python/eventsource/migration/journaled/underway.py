"""What the passes of one migration share while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.dataplane import DataPlaneError
from eventsource.migration.journaled import changes, preflight
from eventsource.migration.journaled.compaction import Compaction
from eventsource.migration.tables import reserved_block, witnesses
from eventsource.migration.tables.late_triggers import LateTriggers

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
    ``own`` are connections for the rows alone. ``sequences`` are those of the source, by table.
    Passes are numbered ``above`` those that a decision has named; where it ``is_decided`` that the
    tenant has moved, the source gives no more numbers to it.
    """

    connections: DriverConnections
    migration: Migration
    owner: UUID
    at: CopyProgress
    agreed: Carriage
    transfer: Transfer
    session: Session
    fence_id: int
    sequences: Mapping[str, str]
    rate: Callable[[], float | None] = lambda: None
    above: int = 0
    is_decided: bool = False
    own: list[Connection] = field(default_factory=list)
    compaction: Compaction = field(default_factory=Compaction)
    triggers: LateTriggers = field(default_factory=LateTriggers)

    async def refuse_late_triggers(self) -> None:
        """Before anything is carried.

        Raises:
            StoreSchemaError: somebody has made one at the target that would fire for it.
        """
        target = self.connections.target
        shape = self.transfer.statements.shape
        names = [target.beside(each.name) for each in shape.layout.tables]
        await self.triggers.refuse(
            target, names, lambda: preflight.fired(self.connections, self.migration)
        )

    async def barrier(self) -> None:
        """Commit at the source, flushed: nothing that was read before can be lost there."""
        await self.refuse_exhausted()
        await witnesses.stand_again(
            self.connections.source, self.migration.id, self.at.witness, self.at.source_system
        )

    async def write_down(self, table_no: int, keys: list[str]) -> None:
        """Rows that the target does not take yet, before it is committed there that they were read:
        the next pass has them. They need not change again, nor do the children of such a row."""
        if keys:
            await changes.write_down(self.connections.source, self.fence_id, table_no, keys)

    async def refuse_exhausted(self, *, ahead: bool = False) -> None:
        """What was read has numbers that the target keeps free.

        Args:
            ahead: what is given until the fence is held has to be among them, too.

        Raises:
            DataPlaneError: kind ``positions_exhausted``: the source has given others since.
        """
        source, agreed = self.connections.source, self.agreed
        if self.is_decided or self.transfer.statements.shape.layout.is_whole:
            return
        left = {
            name: agreed.headroom_of(name) // reserved_block.LEAST_PART // 2 if ahead else 0
            for name in self.sequences
        }
        found = await source.connection.fetchrow(
            "select name, given, bound from (select name, bound, reserve,"
            " pg_sequence_last_value(sequence::regclass) as given"
            " from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])"
            " as own (name, sequence, bound, reserve)) own where given > bound - reserve limit 1",
            list(self.sequences), list(self.sequences.values()),
            [agreed.bound(name) for name in self.sequences], list(left.values()),
        )  # fmt: skip
        if found is not None:
            raise DataPlaneError(
                "positions_exhausted",
                f"the source has given number {found['given']} in {found['name']}, and the target"
                f" keeps numbers free up to {found['bound']}: abort the migration and start it"
                " again",
                {"needed": found["given"], "last": found["bound"]},
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
