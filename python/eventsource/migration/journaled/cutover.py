"""The cutover of a layout's tables: as that of our own, with what several tables need besides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource import failpoints
from eventsource.migration.connections import session_marks
from eventsource.migration.connections.driver_connections import close_all, open_connection
from eventsource.migration.connections.transactions import parsed
from eventsource.migration.errors import CutoverTimeoutError, MissingRowError, PreflightError
from eventsource.migration.journaled import (
    after_flip,
    changes,
    numbers,
    partitions,
    watching,
    whole,
)
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.steps.cutover import Cutover, CutoverResult
from eventsource.migration.steps.decision import Decision
from eventsource.migration.tables import brief_locks, fences

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.journaled.passes import JournaledPasses
    from eventsource.migration.layouts.declaration import Layout, LayoutTable
    from eventsource.migration.models import CutoverRequest, Migration
    from eventsource.migration.tables.fences import Fence

#: How long after its process fell silent, and the budget, the server ends the session that holds
#: the tables. It ends the one that holds the fence sooner: nothing is decided without the other.
HELD_SECONDS = 8.0

#: How long the lock that keeps leaves from being attached is waited for (ms).
CATALOG_LOCK_MS = 200

_DECIDE = """
update {fences} set state = 'moved', generation = generation + 1, moved_to = $4,
    position_offset = $5, updated_at = now(),
    source_head = coalesce(pg_sequence_last_value($6::text::regclass), 0),
    decided_pass = $7, decided_token = $8, decided_rows = $9, decided_digest = $10,
    decided_total = $11
where fence_id = $1 and migration_id = $2 and generation = $3 and state = 'open'
  and role = 'source'
  and not exists (select from {fences} o where o.lock_id = $12 and o.generation > $3)
returning generation, source_head, position_offset
"""


@dataclass(slots=True)
class JournaledCutover(Cutover):
    """One cutover of one migration of a layout."""

    passes: JournaledPasses  # type: ignore[assignment]
    deciding: asyncpg.prepared_stmt.PreparedStatement[Any] | None = None
    sequence: str | None = None

    @classmethod
    async def of(
        cls,
        connections: DriverConnections,
        migration: Migration,
        passes: JournaledPasses,
        fence: Fence,
        asked: CutoverRequest,
    ) -> JournaledCutover:
        """Everything that can be parsed and looked up before the route says that it begins."""
        if await fences.of_migration(connections.target, migration.id, "target") is None:
            raise MissingRowError(
                "the fence at the target was removed by hand; abort the migration"
            )
        if problems := await after_flip.problems_of(connections.target, migration.tenant_id):
            raise PreflightError(problems)
        layout = connections.source.layout
        assert layout is not None
        main = layout.main
        own = next((each for each in main.numbered if each.like is None), None)
        shape = passes.transfer.statements.shape
        await numbers.keep_ahead(connections.target, shape, passes.agreed.last)
        sequence = None
        if own is not None:
            sequence = await numbers.sequence_of(connections.source, main, own, migration.tenant_id)
        deciding = await parsed(
            connections.fence.connection, _DECIDE.format(fences=connections.fence.fences)
        )
        return cls(
            connections, migration, passes, fence, asked, None,  # type: ignore[arg-type]
            deciding=deciding, sequence=sequence,
        )  # fmt: skip

    async def run(self) -> CutoverResult:
        """As :meth:`Cutover.run`, while nobody attaches or detaches a leaf of a table."""
        async with self._catalog_held():
            return await Cutover.run(self)

    @contextlib.asynccontextmanager
    async def _catalog_held(self) -> AsyncIterator[None]:
        """ATTACH and DETACH wait, and so does everybody who switches triggers off; writers do not.

        Before the fence: what waits for this lock would make writers wait.
        """
        names = [self._named(each.name) for each in self._layout.tables]
        patience = int((HELD_SECONDS + self.asked.budget_seconds) * 1000)
        held = await open_connection(self.connections.endpoints.source.parameters)
        try:
            try:
                # Who takes the migration over ends it at once.
                await session_marks.mark(held, session_marks.driver_mark(self.migration.id))
                await held.execute(
                    f"set idle_in_transaction_session_timeout = {patience}; begin;"
                    f" set local lock_timeout = {CATALOG_LOCK_MS}"
                )
                # A leaf below another partition needs a lock on that one alone. Those on a table
                # keep what is directly below it.
                known: set[str] = set()
                while names := [each for each in names if each not in known]:
                    await held.execute(
                        f"lock table only {', only '.join(names)} in share update exclusive mode"
                    )
                    known.update(names)
                    names = await partitions.below(held, names, kinds="p")
            except asyncpg.LockNotAvailableError:
                raise CutoverTimeoutError(
                    self.migration.config.cutover_timeout_seconds,
                    reason="the cutover was given up before the fence: somebody changes one of the"
                    " source's tables, or vacuums it; ask again",
                ) from None
            async with _kept_awake(held):
                yield
        finally:
            await close_all([held])

    @property
    def _layout(self) -> Layout:
        layout = self.connections.source.layout
        assert layout is not None
        return layout

    def _named(self, table: str) -> str:
        return self.connections.source.beside(table)

    async def _look_at_the_target(self) -> None:
        """Nobody but the migration has been able to write the tenant's rows there."""
        target = self.connections.target
        arriving = await fences.of_migration(target, self.migration.id, "target")
        lacking = (
            await Guarded(target, self._layout).without_arrival(arriving)
            if arriving is not None
            else [each.name for each in self._layout.tables]
        )
        if lacking:
            raise PreflightError(
                [
                    f"the guard of the target's {', '.join(lacking)} is gone or was enabled"
                    " otherwise than ALWAYS; abort the migration and start it again"
                ]
            )

    async def _decide(self) -> Decision | None:
        """In the transaction that holds the lock: mark the tenant as moved.

        Raises:
            PreflightError: writes may have passed the guard by.
        """
        source, passes = self.connections.fence, self.passes
        if (
            await watching.seen(source) != passes.agreed.watched
            or await watching.weak(source)
            or await partitions.uncovered(source)
        ):
            raise PreflightError(
                [
                    "a table of the source was changed while the tenant moved (a trigger switched"
                    " off, a leaf attached, a column's type): everything is carried again; ask for"
                    " the cutover again"
                ]
            )
        if held := await partitions.held(source):
            raise PreflightError(
                [
                    f"another session has {', '.join(held)} for itself and may change what the"
                    " guard sees; ask for the cutover again when it has ended"
                ]
            )
        if self._layout.is_whole:
            await whole.hand_numbers_over(source, self.connections.target)
            await failpoints.reach("layout.numbers.committed")
        assert self.deciding is not None
        proof = passes.at.proof
        row = await self.deciding.fetchrow(
            self.fence.fence_id, self.migration.id, self.migration.generation,
            self.migration.target_store_id, passes.at.position_offset, self.sequence,
            proof.last_pass, proof.token, proof.rows, proof.digest, proof.total,
            self.fence.lock_id,
        )  # fmt: skip
        return Decision(**dict(row), proof=proof) if row is not None else None


@contextlib.asynccontextmanager
async def _kept_awake(held: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """Say often that this process lives: the server ends the session of one that is frozen."""
    over = asyncio.Event()

    async def say() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), HELD_SECONDS / 5)
                return
            # The decision looks for what a session that is gone has not kept away.
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await held.execute("select 1")

    saying = asyncio.create_task(say())
    try:
        yield
    finally:
        over.set()
        await asyncio.wait([saying], timeout=1.0)
        saying.cancel()


async def forget_changes(source: OwnTable, migration: Migration) -> None:
    """The journal of a tenant that has moved: nobody reads it, and nobody writes it any more.

    Left alone where the source does not answer: somebody may have moved away from it for that.
    """
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        fence = await fences.of_migration(source, migration.id, "source")
        if fence is not None and fence.state == "moved":
            await changes.forget(source, fence.fence_id)


async def tidy(target: OwnTable, migration: Migration) -> None:
    """Drop the triggers of the tenant that has arrived, where that waits for nobody."""
    assert target.layout is not None
    fence = await fences.of_migration(target, migration.id, "target")
    if fence is None or fence.state != "open":
        return
    guarded = Guarded(target, target.layout)
    attempts = iter(range(10))

    async def drop(table: LayoutTable) -> None:
        await guarded.drop_arrival(table, fence)

    with contextlib.suppress(brief_locks.LockNeverGranted):
        await guarded.each(drop, fence, lambda: next(attempts, None) is not None, readers=True)
