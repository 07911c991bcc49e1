"""What a driver does with the tables of a layout, where with our own it does something else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.errors import CutoverTimeoutError, PreflightError, RetryLaterError
from eventsource.migration.journaled import (
    after_flip,
    comparison,
    cutover,
    preflight,
    preparation,
    repair,
    undoing,
    whole,
)
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.journaled.passes import JournaledPasses
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.models import VerificationLevel
from eventsource.migration.preflight.findings import Findings
from eventsource.migration.tables import brief_locks, fences, read_only
from eventsource.tenant_ids import stored

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.models import CutoverRequest, Migration
    from eventsource.migration.steps.cutover import Cutover
    from eventsource.migration.steps.decision import Decision
    from eventsource.migration.tables.fences import Fence

    Connections = DriverConnections


class LayoutTables:
    """Each method as its namesake in :class:`eventsource.migration.driver.ways.OwnTables`."""

    async def prepare(
        self,
        connections: Connections,
        migration: Migration,
        owner: UUID,
        carry_on: Callable[[], bool],
    ) -> None:
        await preparation.prepare(connections, migration, owner, carry_on)

    async def count(
        self, source: OwnTable, passes: JournaledPasses, most: int | None = None
    ) -> int | None:
        return await preparation.count_tenant(source, passes.transfer.statements.shape, most)

    async def open_passes(
        self,
        connections: Connections,
        migration: Migration,
        owner: UUID,
        rate: Callable[[], float | None],
        prepared: object = None,
    ) -> JournaledPasses:
        return await JournaledPasses.open(connections, migration, owner, rate)

    async def copy(self, passes: JournaledPasses, stopped: asyncio.Event) -> bool:
        return await passes.first(stopped) is not None

    async def after_the_copy(self, connections: Connections) -> None:
        target = connections.target
        assert target.layout is not None
        names = ", ".join(target.beside(each.name) for each in target.layout.tables)
        await target.connection.execute(f"analyze {names}", timeout=LONG_STATEMENT_SECONDS)

    async def check(self, connections: Connections, migration: Migration) -> None:
        source, target = connections.source, connections.target
        assert source.layout is not None
        shape = await shape_of(source, target, source.layout, migration.tenant_id)
        preflight.refuse(shape, migration.config.fires)
        problems = await preflight.not_permitted(source, target, shape)
        if problems := problems + await read_only.problems_of(target):
            raise PreflightError(problems)
        await preflight.refuse_readers(target, shape)
        if source.layout.is_whole:
            findings = Findings()
            await whole.examine(source, target, migration.tenant_id, findings)
            findings.raise_if_refused()

    async def verify(self, connections: Connections, migration: Migration, seen: object) -> None:
        """Compare before the fence is asked for, whatever the level: this is the proof of all rows
        that no pass has looked at since the first.

        Raises:
            ConsistencyError: they differ.
            CutoverTimeoutError: nobody can say now whether they do.
        """
        try:
            report = await comparison.compare(
                connections.source, connections.target, migration.tenant_id, VerificationLevel.FULL
            )
        except RetryLaterError as error:
            raise CutoverTimeoutError(
                migration.config.cutover_timeout_seconds,
                reason=f"the cutover was given up before the fence: {error}",
            ) from error
        comparison.refuse_differences(report)

    async def cutover(
        self,
        connections: Connections,
        migration: Migration,
        passes: JournaledPasses,
        fence: Fence,
        asked: CutoverRequest,
    ) -> Cutover:
        return await cutover.JournaledCutover.of(connections, migration, passes, fence, asked)

    async def abort(self, connections: Connections, migration: Migration, owner: UUID) -> bool:
        return await undoing.carry_out(connections, migration, owner)

    async def mend(
        self, side: str, table: OwnTable, migration: Migration, carry_on: Callable[[], bool]
    ) -> None:
        fence = await fences.of_migration(table, migration.id, side)
        if fence is None:
            return
        assert table.layout is not None
        guarded = Guarded(table, table.layout)
        # Asked to stop while others hold the table, it obeys at the next chunk.
        with contextlib.suppress(brief_locks.LockNeverGranted):
            await preparation.mend(guarded, fence, stored(migration.tenant_id), carry_on)

    async def opened(
        self, connections: Connections, migration: Migration, decided: Decision
    ) -> None:
        await after_flip.run(connections.target, migration, decided)

    async def tidy(self, connections: Connections, migration: Migration) -> None:
        await cutover.tidy(connections.target, migration)
        await cutover.forget_changes(connections.source, migration)

    async def repair(
        self, connections: Connections, migration: Migration, owner: UUID, decided: Decision
    ) -> Decision:
        return await repair.carry_out(connections, migration, owner, decided)
