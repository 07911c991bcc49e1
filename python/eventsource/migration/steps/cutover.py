"""The cutover: fence, last pass, decision, flip, inside a hard budget."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource import failpoints
from eventsource.dataplane import DataPlaneError
from eventsource.migration.connections import blockers, waits
from eventsource.migration.errors import (
    Blocker,
    ConsistencyError,
    CutoverTimeoutError,
    MigrationError,
    PreflightError,
)
from eventsource.migration.steps import decision
from eventsource.migration.tables import brief_locks, fences, integrity

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration
    from eventsource.migration.steps.decision import Decision
    from eventsource.migration.steps.passes import Passes
    from eventsource.migration.tables.fences import Fence

#: Share of the budget that one attempt may wait for the lock: a waiting exclusive lock queues
#: every new writer after it.
ATTEMPT_SHARE = 0.25

#: Longest wait of one attempt, in seconds.
LONGEST_ATTEMPT = 0.5

#: A fenced section shorter than this is not worth beginning (seconds).
SHORTEST_SECTION = 0.1

#: A fenced section that outlives its time by this much is a process that is frozen or gone, and the
#: server frees the writers: a live one has given up by itself and said so (seconds).
FROZEN_AFTER = 0.15

#: How long the fence's own link has to release the lock (seconds).
LET_GO_SECONDS = 1.0

#: Between decision and open target writers still wait, for as long as this: after that the server
#: ends the fence's idle session, and they try the target until it opens.
OPENING_MS = 500

_WAITING = """
select count(*) from pg_locks l
where l.locktype = 'advisory' and l.classid = $1::bigint::oid and l.objid = $2::bigint::oid
  and l.objsubid = 2 and not l.granted and l.mode = 'ShareLock'
  and l.database = (select oid from pg_database where datname = current_database())
"""


@dataclass(frozen=True, slots=True)
class CutoverResult:
    """How the flip went.

    Attributes:
        decided: the decision that was committed.
        pause_ms: from asking for the fence to the open target, in milliseconds: the longest that
            an append can have waited for this.
        rows: rows that the last pass carried.
        attempts: how often the lock was asked for.
    """

    decided: Decision
    pause_ms: float
    rows: int
    attempts: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Statements that run under the fence, and the triggers that guard the tenant's arrival."""

    deciding: asyncpg.prepared_stmt.PreparedStatement[Any]
    looking: asyncpg.prepared_stmt.PreparedStatement[Any]
    arriving: list[str]


@dataclass(slots=True)
class Cutover:
    """One cutover of one migration. Every connection it needs is open before it begins."""

    connections: DriverConnections
    migration: Migration
    passes: Passes
    fence: Fence
    prepared: _Prepared

    @classmethod
    async def ready(
        cls, connections: DriverConnections, migration: Migration, passes: Passes, fence: Fence
    ) -> Cutover:
        """Everything that can be parsed and looked up before the route says that it begins."""
        arriving = await fences.of_migration(connections.target, migration.id, "target")
        if arriving is None:
            raise MigrationError("the fence at the target was removed by hand; abort the migration")
        prepared = _Prepared(
            await decision.prepare(connections.fence),
            await connections.target.connection.prepare(integrity.statement()),
            integrity.guards_of(arriving),
        )
        return cls(connections, migration, passes, fence, prepared)

    async def run(self) -> CutoverResult:
        """Fence the tenant, carry the rest, decide and open the target.

        Raises:
            CutoverTimeoutError: the budget is spent; the fence is open again.
            ConsistencyError: the last pass could not be proven; the fence is open again.
        """
        # What was written while the way here was cleared need not be carried under the fence.
        await self.passes.catch_up()
        budget = self.migration.config.cutover_timeout_seconds
        deadline = time.monotonic() + budget
        share = min(budget * ATTEMPT_SHARE, LONGEST_ATTEMPT)
        in_the_way: list[Blocker] = []
        attempts = 0
        await self.passes.prepare_last()
        async with waits.waiting(
            f"for the tenant's fence in store {self.migration.source_store_id!r}",
            f"given up after {budget:g} s",
        ) as waiting:
            while (left := deadline - time.monotonic()) > SHORTEST_SECTION or attempts == 0:
                attempts += 1
                await failpoints.reach("cutover.fence.wait")
                asked = time.monotonic()
                # What one writer can wait is the lock wait plus the section after it: together they
                # stay within the budget.
                wait = min(share, left)
                async with self._fenced(wait, budget - wait) as held:
                    if held:
                        return await self._section(asked, budget - wait, attempts)
                in_the_way = await self._blockers(waiting.seconds) or in_the_way
                await waiting.goes_on(self._blockers)
                await asyncio.sleep(min(share, max(0.0, deadline - time.monotonic())))
        raise CutoverTimeoutError(budget, await self._waiting(), in_the_way)

    @contextlib.asynccontextmanager
    async def _fenced(self, wait: float, section: float):  # type: ignore[no-untyped-def]
        """Hold the exclusive lock; yields False when it was not granted in time (seconds)."""
        held = self.connections.fence.connection
        milliseconds = max(1, int(wait * 1000))
        patience = int((section + FROZEN_AFTER) * 1000)
        try:
            try:
                await held.execute(
                    "begin isolation level read committed;"
                    f"set local lock_timeout = {milliseconds};"
                    # Frees the writers when this process is frozen or gone.
                    f"set local idle_in_transaction_session_timeout = {patience};"
                    f"{brief_locks.end_after(milliseconds + patience)};"
                    f"select pg_advisory_xact_lock({fences.LOCK_CLASS}, {self.fence.lock_id})"
                )
            except asyncpg.LockNotAvailableError:
                yield False
            else:
                yield True
        finally:
            if not held.is_closed():
                await self._let_go()

    async def _let_go(self) -> None:
        """Let writers go on; a link that does not even do that is ended, and the server frees them.

        Before the decision this rolls back; after it, it releases the lock.
        """
        held = self.connections.fence.connection
        try:
            async with asyncio.timeout(LET_GO_SECONDS):
                undo = "rollback; " if held.is_in_transaction() else ""
                await held.execute(
                    f"{undo}reset idle_session_timeout; select pg_advisory_unlock_all()"
                )
        except (asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
            held.terminate()

    async def _section(
        self,
        asked: float,
        seconds: float,
        attempts: int,
    ) -> CutoverResult:
        """What happens while writers wait; ends with the decision and the open target."""
        waiting = 0
        try:
            async with asyncio.timeout(seconds):
                await failpoints.reach("cutover.fence.held")
                result = await self.passes.under_the_fence()
                await self._look_at_the_target()
                decided = await self._decide()
                await failpoints.reach("cutover.decision.before")
        except TimeoutError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    waiting = await self._waiting()
            budget = self.migration.config.cutover_timeout_seconds
            raise CutoverTimeoutError(budget, waiting) from None
        except DataPlaneError as error:
            if error.kind == "inconsistent":
                raise ConsistencyError(str(error)) from error
            raise
        if decided is None:
            raise MigrationError(
                f"the fence of migration {self.migration.id} was changed by somebody else;"
                " nothing was flipped"
            )
        await self._commit()
        await failpoints.reach("cutover.decision.committed")
        await decision.open_target(self.connections.target, self.migration, decided)
        pause = round((time.monotonic() - asked) * 1000, 3)
        return CutoverResult(decided, pause, result.rows, attempts)

    async def _decide(self) -> Decision | None:
        """In the transaction that holds the lock: mark the tenant as moved."""
        return await decision.decide(
            self.prepared.deciding,
            self.connections.fence,
            self.migration,
            self.fence,
            self.passes.at.position_offset,
            self.passes.at.shape,
            self.passes.proof(),
        )

    async def _look_at_the_target(self) -> None:
        """Nobody but the migration has been able to write the tenant's rows there."""
        target = self.connections.target
        wrong = await self.prepared.looking.fetchval(target.name, self.prepared.arriving, None)
        if wrong:
            raise PreflightError(integrity.explained(target, "target", wrong))

    async def _commit(self) -> None:
        """Commit the decision. A lost reply leaves it unknown: recovery asks under the lock.

        The session keeps the lock beyond the commit: writers let go now would all run into a
        target that is still closed, and keep the driver from opening it.
        """
        commit = self.connections.fence.connection.execute(
            f"set idle_session_timeout = {OPENING_MS};"
            f"select pg_advisory_lock({fences.LOCK_CLASS}, {self.fence.lock_id});"
            "commit"
        )
        tag = await failpoints.in_flight("cutover.decision.sent", commit)
        if tag != "COMMIT":
            raise MigrationError("the decision was rolled back by the server; nothing was flipped")

    async def _blockers(self, seconds: float) -> list[Blocker]:
        """Whose appends have been in flight for longer than that; others wait for the fence."""
        return await blockers.of_fence(
            self.connections.source.connection, fences.LOCK_CLASS, self.fence.lock_id, seconds
        )

    async def _waiting(self) -> int:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return int(
                await self.connections.source.connection.fetchval(
                    _WAITING, fences.LOCK_CLASS, self.fence.lock_id
                )
            )
        return 0
