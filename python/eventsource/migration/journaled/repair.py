"""A target of a layout that lacks what was decided on: everything is carried to it again.

The tenant has moved by then and writes nowhere: the source is complete, and the target is closed.
The journal may have forgotten what the target has lost, so the first pass runs again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from eventsource import failpoints
from eventsource.migration.journaled import comparison, first_pass, preparation, whole
from eventsource.migration.journaled.passes import JournaledPasses
from eventsource.migration.models import VerificationLevel
from eventsource.migration.steps.repair import replace_proof
from eventsource.migration.tables import fences, progress

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration
    from eventsource.migration.steps.decision import Decision


async def carry_out(
    connections: DriverConnections, migration: Migration, owner: UUID, decided: Decision
) -> Decision:
    """The decision with the proof of what the target holds now.

    Raises:
        ConsistencyError: the target does not hold what the source does.
        StoreGoneBackError: the source's old rows are being deleted. Nothing was changed.
    """
    await fences.refuse_cleaned(connections.source, migration)
    target = connections.target
    fence = await fences.of_migration(target, migration.id, "target")
    if fence is None or await progress.read(target, migration.id) is None:
        await preparation.prepare(
            connections, migration, owner, lambda: True, decided_head=decided.source_head
        )
    passes = await JournaledPasses.open(connections, migration, owner)
    passes.is_decided = True
    # Writers wait until the target opens: this is no time to spare the servers.
    passes.session.set_rate(None)
    try:
        passes.above = decided.proof.last_pass if decided.proof else 0
        await first_pass.empty(passes)
        await passes.begin_again()
        await passes.first()
        await passes.prepare_last()
        await passes.under_the_fence()
        await passes.refresh()
        assert target.layout is not None
        if target.layout.is_whole:
            await whole.hand_numbers_over(connections.source, target)
        await failpoints.reach("repair.carried.committed")
        report = await comparison.compare(
            connections.source, target, migration.tenant_id, VerificationLevel.FULL
        )
        comparison.refuse_differences(report)
        return await replace_proof(
            connections, migration, decided, passes.at.proof, passes.at.position_offset
        )
    finally:
        await passes.close()
