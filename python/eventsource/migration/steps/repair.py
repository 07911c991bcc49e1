"""A target that lacks what was decided on: it was put back to a moment before.

The tenant has moved by then and writes nowhere: the source is fenced and complete, and the target
is still closed. So the passes run again from what the target's progress row says, and the new proof
takes the place of the old one in the fence row, whose generation stays. Nothing opens it before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource import failpoints
from eventsource.counts import counted
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.errors import ConsistencyError, MigrationError, StoreGoneBackError
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.steps import preparation
from eventsource.migration.steps.bulk_copy import BulkCopier
from eventsource.migration.steps.carried_back import CarriedBack
from eventsource.migration.steps.decision import Decision
from eventsource.migration.steps.passes import Passes
from eventsource.migration.tables import brief_locks, fences, progress
from eventsource.migration.tables.proofs import Proof
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.models import Migration


@dataclass(frozen=True, slots=True)
class Repair:
    """Carries to a closed target what it lacks of a tenant that has moved.

    Args:
        carry_on: asked while a lock is waited for.
    """

    connections: DriverConnections
    migration: Migration
    owner: UUID
    carry_on: Callable[[], bool]

    async def run(self, decided: Decision) -> Decision:
        """The decision with the proof of what the target holds now.

        Raises:
            StoreGoneBackError: the source does not hold any more what was decided on.
            ConsistencyError: what was carried is not what the source holds.
        """
        await fences.refuse_cleaned(self.connections.source, self.migration)
        await self._prepare(decided)
        carried_back = CarriedBack(self.connections, self.migration, self.owner, decided)
        bound = await carried_back.bound()
        passes = await Passes.open(self.connections, self.migration, self.owner)
        # Writers wait until the target opens: this is no time to spare the servers.
        passes.session.set_rate(None)
        try:
            passes.above = decided.proof.last_pass if decided.proof else 0
            if passes.at.proven_snapshot is None:
                if not passes.at.pass_is_open:
                    await passes.begin(bound)
                await BulkCopier(passes).run()
            elif passes.at.pass_is_open:
                await passes.catch_up()
            await passes.prepare_last(bound)
            await passes.under_the_fence()
            await passes.refresh()
            await failpoints.reach("repair.carried.committed")
            proof = passes.at.proof
            await self._compare(decided, proof, passes.at.position_offset)
            await carried_back.go_home()
            offset = passes.at.position_offset
            return await replace_proof(self.connections, self.migration, decided, proof, offset)
        finally:
            await passes.session.close()

    async def _prepare(self, decided: Decision) -> None:
        """A target from before the move gets its fence first, and then S(0) is taken again."""
        target, migration = self.connections.target, self.migration
        fence = await fences.of_migration(target, migration.id, "target")
        at = await progress.read(target, migration.id)
        if fence is not None and at is not None:
            return
        if at is None:
            # Another offset may come of it.
            await PostgreSQLPositionMappingRepository(self.connections.control).delete(migration.id)
        await preparation.prepare(
            self.connections, migration, self.owner, self.carry_on,
            decided_head=decided.source_head,
        )  # fmt: skip

    async def _compare(self, decided: Decision, proof: Proof, offset: int) -> None:
        """A last pass over nothing proves nothing: the whole is counted on both sides."""
        # A return has carried what is new, to new positions; the rest was there before.
        fresh = self.migration.returns is not None
        end = None if fresh else decided.source_head + offset
        here = await self._count(self.connections.source, decided.source_head)
        there = await self._count(self.connections.target, end)
        tenant, found = self.migration.tenant_id, proof.total if fresh else here
        if decided.proof is not None and found != decided.proof.total:
            raise StoreGoneBackError(
                f"the source holds {counted(found, 'event')} of tenant {tenant} to carry, not the"
                f" {decided.proof.total:,} of the decision: the target was restored or failed over"
                " and lacks events that the source does not hold any more; nothing is opened."
                " Restore a later state of either"
            )
        if here != there or found != proof.total:
            raise ConsistencyError(
                f"the source holds {counted(here, 'event')} of tenant {tenant}, the target"
                f" {there:,}, and the passes have carried {proof.total:,}; nothing is opened"
            )

    async def _count(self, table: OwnTable, last: int | None) -> int:
        count = await table.connection.fetchval(
            f"select count(*) from {table.name} where tenant_id = $1"
            " and global_position <= coalesce($2, global_position)",
            as_uuid(self.migration.tenant_id), last, timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        return int(count)


async def replace_proof(
    connections: DriverConnections,
    migration: Migration,
    decided: Decision,
    proof: Proof,
    offset: int,
) -> Decision:
    """Write the new proof into the fence row that has decided, under the lock."""
    source = connections.fence
    fence = await fences.of_migration(source, migration.id, "source")
    if fence is None:
        raise MigrationError("the fence that has decided is not there any more")
    pause = 0.1
    while True:
        try:
            async with brief_locks.held_briefly(source.connection):
                await fences.lock_exclusively(source.connection, fence)
                await fences.replace_proof(source, fence, decided.generation, proof, offset)
            break
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
    await failpoints.reach("repair.proof.committed")
    return replace(decided, proof=proof, position_offset=offset)
