"""One stretch of driving: from the state that the journal shows to the next one, and on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource import failpoints
from eventsource.migration import changes, failures, telemetry
from eventsource.migration.connections import waits
from eventsource.migration.driver import requests
from eventsource.migration.driver.ways import Verify, way_of
from eventsource.migration.errors import (
    ConsistencyError,
    CutoverTimeoutError,
    InvalidStateTransitionError,
    MissingRowError,
    PreflightError,
    RepairNeededError,
)
from eventsource.migration.states import MigrationState
from eventsource.migration.steps import decision
from eventsource.migration.steps.cutover import Cutover
from eventsource.migration.steps.passes import Passes
from eventsource.migration.tables import brief_locks, fences, progress

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.driver.heartbeat import Heartbeat
    from eventsource.migration.driver.lease import Lease
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.models import Migration

#: How long a cutover tries to make the lag small before it is given up (seconds), beside what its
#: comparison took: a tenant may write faster than it can be carried.
SHRINK_SECONDS = 60.0


class Doing(Enum):
    """What decides how a failure is answered."""

    CARRYING_ON = "carrying on"
    ABORT = "abort"
    RECOVERY = "recovery"


@dataclass(slots=True)
class Stages:
    """One stretch of driving on one set of connections.

    Attributes:
        verify: compares both stores before the fence is asked for.
        doing: what it is at, for the driver that answers its failure.
    """

    connections: DriverConnections
    lease: Lease
    heartbeat: Heartbeat
    verify: Verify
    doing: Doing = Doing.CARRYING_ON
    passes: Passes | None = None
    #: How it is done for the kind of tables that these are.
    way: Any = field(init=False)

    def __post_init__(self) -> None:
        self.way = way_of(self.connections, self.verify)

    @property
    def migration(self) -> Migration:
        return self.heartbeat.migration

    async def to_the_end(self) -> None:
        try:
            while not await self._obey():
                match self.migration.state:
                    case MigrationState.PENDING:
                        await self._prepare()
                    case MigrationState.BULK_COPY:
                        await self._bulk()
                    case MigrationState.DUAL_WRITE:
                        await self._follow()
                    case MigrationState.CUTOVER_PAUSED:
                        await self._recover()
                    case (
                        MigrationState.MIGRATED
                        | MigrationState.PAUSED
                        | MigrationState.ROLLED_BACK
                        | MigrationState.FAILED
                    ):
                        return
                await self._has_succeeded()
        finally:
            if self.passes is not None:
                await self.passes.close()

    async def _has_succeeded(self) -> None:
        """What an earlier attempt waited for is over: nobody should read of it any more."""
        if self.migration.is_waiting:
            await self.connections.migrations.record_error(
                self.migration.id, self.lease.owner, None
            )

    async def _obey(self) -> bool:
        """Carry out a durable request; True when there is nothing left to drive."""
        migration = await self.heartbeat.refresh(self.connections.migrations)
        state = migration.state
        if state is MigrationState.CUTOVER_PAUSED:
            return False
        if migration.abort_requested is not None:
            self.doing = Doing.ABORT
            if await self.way.abort(self.connections, migration, self.lease.owner):
                return True
            await self.heartbeat.refresh(self.connections.migrations)
            return False
        if state is MigrationState.PAUSED or state.is_final:
            return True
        if migration.pause_requested:
            self.heartbeat.migration = await requests.pause(
                self.connections.migrations, migration, self.lease.owner
            )
            return True
        return False

    async def _prepare(self) -> None:
        try:
            await self.way.prepare(
                self.connections,
                self.migration,
                self.lease.owner,
                lambda: not self.heartbeat.stop_requested,
            )
        except brief_locks.LockNeverGranted:
            return
        await self._open_passes()
        assert self.passes is not None
        if not self.passes.at.pass_is_open:
            await self.passes.begin()
        total = await self.way.count(self.connections, self.migration, self.passes)
        await self.connections.migrations.record_progress(
            self.migration.id, self.lease.owner, self.passes.at.carried, total
        )
        await self._to(MigrationState.BULK_COPY)
        await failpoints.reach("bulk.entered.committed")

    async def _bulk(self) -> None:
        passes = await self._open_passes()
        with (
            self.heartbeat.attending(passes.session, bulk=True),
            telemetry.span("copy", self.migration),
        ):
            stopped = self.heartbeat.stop_asked
            copied = passes.at.proven_snapshot is not None or await self.way.copy(passes, stopped)
        await passes.publish()
        if not copied:
            return  # asked to stop: the request is carried out next
        await self._to(MigrationState.DUAL_WRITE, {"events": passes.at.proven_rows})
        await failpoints.reach("follow.entered.committed")
        await self.way.after_the_copy(self.connections)

    async def _follow(self) -> None:
        """One catch-up pass; then the cutover when asked for, else a rest."""
        fence = await fences.of_migration(self.connections.source, self.migration.id, "source")
        if decision.of(fence) is not None:
            # The journal lags the fence, as after a restore: it rolls forward.
            await self._to(MigrationState.CUTOVER_PAUSED, {"recovered": "the tenant has moved"})
            return
        passes = await self._open_passes()
        with (
            self.heartbeat.attending(passes.session),
            telemetry.span("pass", self.migration),
        ):
            result = await passes.catch_up()
        if result is None:
            return
        telemetry.passed(self.migration, result.rows, result.inserted, result.seconds)
        await passes.publish()
        if self.migration.cutover_request is not None:
            with telemetry.span("cutover", self.migration):
                await self._cut_over(passes)
            return
        await self.heartbeat.rest(self.migration.config.pass_interval_seconds)

    async def _cut_over(self, passes: Passes) -> None:
        request = self.migration.cutover_request
        assert request is not None
        began = time.monotonic()
        try:
            await self.way.check(self.connections, self.migration)
            if not self.migration.cutover_force:
                await self.way.verify(self.connections, self.migration)
            await failpoints.reach("cutover.verified")
            # What was written during the comparison has to be carried as well.
            compared = time.monotonic() - began
            if not await self._shrink_the_lag(passes, compared + SHRINK_SECONDS):
                return
            asked = await self.heartbeat.refresh(self.connections.migrations)
            if asked.pause_requested or asked.abort_requested is not None:
                return
            cutover = await self._cutover(passes)
            if not await self._enter_the_cutover(request):
                return
            await failpoints.reach("cutover.entered.committed")
            cutover.migration = self.migration
            result = await cutover.run()
        except (CutoverTimeoutError, ConsistencyError, PreflightError) as error:
            if self.migration.state is MigrationState.CUTOVER_PAUSED:
                await self._to(MigrationState.DUAL_WRITE, failures.describe(error))
            telemetry.cutover_ended(self.migration, error.code)
            changes.announce("cutover", self.migration, details=failures.describe(error))
            await self.connections.migrations.answer_cutover(
                self.migration.id, request, failures.describe(error)
            )
            await self._reopen_passes()
            # A statement that was cancelled on a silent link would keep the next one waiting.
            await self.connections.renew(self.migration.id)
            await self.lease.take_over(self.connections)
            return
        await self.way.opened(self.connections, self.migration, result.decided)
        telemetry.cutover_ended(self.migration, failures.OK, result.pause_ms)
        await decision.finish(
            self.connections.migrations, self.migration, result.decided, result.pause_ms
        )
        await self.connections.migrations.answer_cutover(
            self.migration.id, request, {"code": failures.OK}
        )
        await failpoints.reach("flip.answer.committed")
        await self.connections.migrations.audit(
            self.migration.id,
            "cutover",
            {
                "pause_ms": result.pause_ms,
                "rows": result.rows,
                "attempts": result.attempts,
            },
        )
        await self.way.tidy(self.connections, self.migration)

    async def _enter_the_cutover(self, request: UUID) -> bool:
        """False when the request was withdrawn: its wave was stopped meanwhile."""
        try:
            await self._to(MigrationState.CUTOVER_PAUSED, request=request)
        except InvalidStateTransitionError:
            asked = await self.heartbeat.refresh(self.connections.migrations)
            if asked.state is MigrationState.DUAL_WRITE and asked.cutover_request != request:
                return False
            raise
        return True

    async def _cutover(self, passes: Passes) -> Cutover:
        fence = await fences.of_migration(self.connections.source, self.migration.id, "source")
        if fence is None:
            raise MissingRowError(
                "the fence at the source is not there: check that the dsn leads to the database"
                " where the migration began; if the row was removed by hand, abort the migration"
            )
        cutover: Cutover = await self.way.cutover(self.connections, self.migration, passes, fence)
        return cutover

    async def _shrink_the_lag(self, passes: Passes, seconds: float) -> bool:
        """Catch up until a pass is small: what is left then fits under the fence.

        False when asked to stop meanwhile.

        Raises:
            CutoverTimeoutError: the lag is not small after so many seconds.
        """
        small = self.migration.config.sync_lag_threshold
        began, left = time.monotonic(), 0
        loop = asyncio.get_running_loop()
        async with waits.waiting(
            f"for the lag to shrink to {small:,} events", f"given up after {seconds:.0f} s"
        ) as wait:
            late = loop.call_later(seconds, passes.session.request_stop)
            try:
                while (elapsed := time.monotonic() - began) < seconds:
                    with self.heartbeat.attending(passes.session):
                        result = await passes.catch_up()
                    if result is None:
                        break
                    left = result.inserted
                    if left <= small and result.seconds < 1:
                        return True
                    await wait.goes_on()
            finally:
                late.cancel()
        asked = await self.heartbeat.refresh(self.connections.migrations)
        if asked.pause_requested or asked.abort_requested is not None:
            return False
        elapsed = time.monotonic() - began
        raise CutoverTimeoutError(
            self.migration.config.cutover_timeout_seconds,
            reason=(
                f"the cutover was given up before the fence: after {elapsed:.0f} s a pass still"
                f" found {left:,} new events, and not the {small:,} of sync_lag_threshold; the"
                " tenant writes faster than the target takes its events, ask again when it writes"
                " less"
            ),
        )

    async def _recover(self) -> None:
        """A cutover was under way when its driver went: ask the fence, under the lock.

        The progress row is claimed first: a driver that was only frozen either holds the lock and
        is waited for, or runs no last pass any more and so decides nothing.
        """
        self.doing = Doing.RECOVERY
        target = self.connections.target
        await progress.claim(target, self.migration.id, self.lease.owner)
        await failpoints.reach("recovery.claimed.committed")
        decided = await decision.find(self.connections.fence, self.migration)
        await failpoints.reach("recovery.decided")
        request = self.migration.cutover_request
        if decided is None:
            await self._to(MigrationState.DUAL_WRITE, {"recovered": "nothing was decided"})
            self.doing = Doing.CARRYING_ON
            return
        await fences.end_abort(target, self.migration)
        try:
            await decision.open_target(target, self.migration, decided)
        except RepairNeededError:
            decided = await self._repair(decided)
            await decision.open_target(target, self.migration, decided)
        await self.way.opened(self.connections, self.migration, decided)
        await decision.finish(self.connections.migrations, self.migration, decided)
        if request is not None:
            await self.connections.migrations.answer_cutover(
                self.migration.id, request, {"code": failures.OK}
            )
        await self.way.tidy(self.connections, self.migration)

    async def _repair(self, decided: decision.Decision) -> decision.Decision:
        repaired: decision.Decision = await self.way.repair(
            self.connections, self.migration, self.lease.owner, decided
        )
        return repaired

    async def _open_passes(self) -> Passes:
        if self.passes is None:
            await self._mend_guards()
            throttle = self.heartbeat.throttle
            await throttle.ready.wait()
            self.passes = await self.way.open_passes(
                self.connections, self.migration, self.lease.owner, lambda: throttle.rate
            )
        self.passes.migration = self.migration
        return self.passes

    async def _mend_guards(self) -> None:
        """A driver that begins does not trust that the triggers are as another one left them."""
        sides = (("source", self.connections.source), ("target", self.connections.target))
        for side, table in sides:
            with failures.concerning(side):
                await self._mend_guard(side, table)

    async def _mend_guard(self, side: str, table: OwnTable) -> None:
        await self.way.mend(side, table, self.migration, lambda: not self.heartbeat.stop_requested)

    async def _reopen_passes(self) -> None:
        """A pass that was cancelled in the middle leaves its connections unusable."""
        if self.passes is not None:
            passes, self.passes = self.passes, None
            await passes.close()

    async def _to(
        self,
        following: MigrationState,
        details: dict[str, object] | None = None,
        request: UUID | None = None,
    ) -> None:
        self.heartbeat.migration = await self.connections.migrations.transition(
            self.migration, following, owner=self.lease.owner, details=details, request=request
        )
