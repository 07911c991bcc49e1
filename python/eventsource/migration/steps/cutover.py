"""The cutover: fence, last pass, decision, flip, inside a hard budget."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource import failpoints
from eventsource.connections import both
from eventsource.dataplane import DataPlaneError
from eventsource.migration.connections import blockers, waits
from eventsource.migration.connections.transactions import parsed
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
    from eventsource.migration.models import CutoverRequest, Migration
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

#: How long the measuring of the writers' waits may take (seconds): they wait for it.
MEASURE_SECONDS = 0.1

# Servers before version 14 do not say since when a session waits: null, where one does.
_WAITING = """
select count(*) as writers,
       case when count(*) = 0 then 0
            else max(extract(epoch from clock_timestamp()
                                        - (to_jsonb(l) ->> 'waitstart')::timestamptz)) end::float8
           as seconds
from pg_locks l
where l.locktype = 'advisory' and l.classid = $1::bigint::oid and l.objid = $2::bigint::oid
  and l.objsubid = 2 and not l.granted and l.mode = 'ShareLock'
  and l.database = (select oid from pg_database where datname = current_database())
"""


@dataclass(frozen=True, slots=True)
class CutoverResult:
    """How the flip went, or would have gone.

    Attributes:
        decided: the decision that was committed; None of a rehearsal.
        pause_ms: from asking for the fence to the open target, in milliseconds. Of a rehearsal to
            the end of the same commits.
        lock_wait_ms: how much of that the appends in flight took.
        longest_wait_ms: the longest that a writer had waited at the fence when it was let go; what
            it needs to follow comes on top. None where that could not be measured.
        writers_waiting: how many waited then; None as above.
        rows: rows that the last pass carried.
        attempts: how often the lock was asked for.
        in_the_way: whose appends held up the attempts that failed.
    """

    decided: Decision | None
    pause_ms: float
    lock_wait_ms: float
    longest_wait_ms: float | None
    writers_waiting: int | None
    rows: int
    attempts: int
    in_the_way: tuple[Blocker, ...] = ()

    def figures(self) -> dict[str, Any]:
        """For the audit log and for who asked."""
        return {
            "pause_ms": round(self.pause_ms, 3),
            "lock_wait_ms": round(self.lock_wait_ms, 3),
            "longest_wait_ms": _rounded(self.longest_wait_ms),
            "writers_waiting": self.writers_waiting,
            "rows": self.rows,
            "attempts": self.attempts,
            "in_the_way": [asdict(each) for each in self.in_the_way],
        }


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Statements that run under the fence, and the triggers that guard the tenant's arrival."""

    deciding: asyncpg.prepared_stmt.PreparedStatement[Any]
    looking: asyncpg.prepared_stmt.PreparedStatement[Any]
    arriving: list[str]


@dataclass(slots=True)
class Cutover:
    """One cutover of one migration, or its rehearsal: the same, but for the decision.

    Every connection it needs is open before it begins.
    """

    connections: DriverConnections
    migration: Migration
    passes: Passes
    fence: Fence
    asked: CutoverRequest
    prepared: _Prepared

    @classmethod
    async def ready(
        cls,
        connections: DriverConnections,
        migration: Migration,
        passes: Passes,
        fence: Fence,
        asked: CutoverRequest,
    ) -> Cutover:
        """Everything that can be parsed and looked up before the route says that it begins."""
        arriving = await fences.of_migration(connections.target, migration.id, "target")
        if arriving is None:
            raise MigrationError("the fence at the target was removed by hand; abort the migration")
        prepared = _Prepared(
            await decision.prepare(connections.fence),
            await parsed(connections.target.connection, integrity.statement()),
            integrity.guards_of(arriving),
        )
        return cls(connections, migration, passes, fence, asked, prepared)

    async def run(self) -> CutoverResult:
        """Fence the tenant, carry the rest, decide and open the target; or all but the last two.

        Raises:
            CutoverTimeoutError: the budget is spent; the fence is open again.
            ConsistencyError: the last pass could not be proven; the fence is open again.
        """
        # What was written while the way here was cleared need not be carried under the fence.
        await self.passes.catch_up()
        budget = self.asked.budget_seconds
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
                result = None
                async with self._fenced(wait, budget - wait) as held:
                    if held:
                        result = await self._section(asked, budget - wait, attempts)
                if result is not None:
                    return replace(result, in_the_way=tuple(in_the_way))
                in_the_way = await self._blockers(waiting.seconds) or in_the_way
                await waiting.goes_on(self._blockers)
                await asyncio.sleep(min(share, max(0.0, deadline - time.monotonic())))
        writers, _ = await self._waiting()
        raise CutoverTimeoutError(budget, writers or 0, in_the_way)

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
        granted = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await failpoints.reach("cutover.fence.held")
                result = await self.passes.under_the_fence()
                decided = await self._decide_on_a_target_of_ours()
                await failpoints.reach("cutover.decision.before")
                if self.asked.rehearsal:
                    await failpoints.reach("rehearsal.proven")
                    # As many commits as decision and opening are.
                    await self.passes.rehearse_commits()
        except TimeoutError:
            waiting, _ = await self._measured()
            raise CutoverTimeoutError(self.asked.budget_seconds, waiting or 0) from None
        except DataPlaneError as error:
            if error.kind == "inconsistent":
                raise ConsistencyError(str(error)) from error
            raise
        if decided is None:
            raise MigrationError(
                f"the fence of migration {self.migration.id} was changed by somebody else;"
                " nothing was flipped"
            )
        so_far = await self._so_far(asked, granted, result.rows, attempts)
        if self.asked.rehearsal:
            return so_far
        await self._commit()
        await failpoints.reach("cutover.decision.committed")
        await decision.open_target(self.connections.target, self.migration, decided)
        more = (time.monotonic() - asked) * 1000 - so_far.pause_ms
        longest = so_far.longest_wait_ms
        if longest is not None and so_far.writers_waiting:
            longest += more  # who waited then waits on until now
        return replace(
            so_far, decided=decided, pause_ms=so_far.pause_ms + more, longest_wait_ms=longest
        )

    async def _so_far(
        self, asked: float, granted: float, rows: int, attempts: int
    ) -> CutoverResult:
        """What the writers have waited until now, right before the decision."""
        writers, longest = await self._measured()
        return CutoverResult(
            decided=None,
            pause_ms=(time.monotonic() - asked) * 1000,
            lock_wait_ms=(granted - asked) * 1000,
            longest_wait_ms=None if longest is None else longest * 1000,
            writers_waiting=writers,
            rows=rows,
            attempts=attempts,
        )

    async def _decide_on_a_target_of_ours(self) -> Decision | None:
        """Look and mark at the same time, at two servers: writers wait. What is marked is not
        committed."""
        _, decided = await both(self._look_at_the_target(), self._decide())
        return decided

    async def _decide(self) -> Decision | None:
        """In the transaction that holds the lock: mark the tenant as moved."""
        return await decision.decide(
            self.prepared.deciding,
            self.connections.fence,
            self.migration,
            self.fence,
            self.passes.at.position_offset,
            self.passes.at.shape,
            self.passes.at.proof,
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

    async def _measured(self) -> tuple[int | None, float | None]:
        """As `_waiting`, and without a number rather than late."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEASURE_SECONDS):
                return await self._waiting()
        return None, None

    async def _waiting(self) -> tuple[int | None, float | None]:
        """How many writers wait for the fence, and for how long the first of them has (seconds);
        None is not known."""
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            row = await self.connections.source.connection.fetchrow(
                _WAITING, fences.LOCK_CLASS, self.fence.lock_id
            )
            assert row is not None
            return row["writers"], row["seconds"]
        return None, None


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)
