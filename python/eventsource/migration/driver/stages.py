"""One stretch of driving: from the state that the journal shows to the next one, and on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from eventsource import failpoints
from eventsource.errors import EventSourceError
from eventsource.migration import failures, telemetry
from eventsource.migration.driver import counting, cutting_over, held_up, requests
from eventsource.migration.driver.stretch import Doing, Stretch
from eventsource.migration.errors import (
    InvalidStateTransitionError,
    RepairNeededError,
    StoreGoneBackError,
)
from eventsource.migration.journaled.authority import kind_of
from eventsource.migration.models import Migration
from eventsource.migration.states import MigrationState
from eventsource.migration.steps import authority, decision, way_back
from eventsource.migration.tables import brief_locks, fences, progress


@dataclass(slots=True)
class Stages(Stretch):
    """From state to state, until there is nothing left to drive."""

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
        except StoreGoneBackError as error:
            if (said := await self._remind()) is not None:
                # The next attempt finds the decision, and goes on from there.
                raise StoreGoneBackError(said) from error
            raise
        finally:
            if self.passes is not None:
                await self.passes.close()

    async def _remind(self) -> str | None:
        """A store that has forgotten a decision hears of it from the one that is open by it."""
        source, target = self.connections.fence, self.connections.target
        journal, migration = self.connections.migrations, self.migration
        kind = kind_of(source)
        if (said := await authority.remind(source, target, migration, journal, kind)) is not None:
            return said
        if migration.returns is None:
            return None
        move = await journal.get(migration.returns)
        return await authority.remind(target, source, move, journal, kind)

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
            if migration.returns is not None:
                return await self._give_up_return()
            if await self.way.abort(self.connections, migration, self.lease.owner):
                return True
            await self.heartbeat.refresh(self.connections.migrations)
            return False
        if state is MigrationState.PAUSED or state.is_final:
            return True
        if migration.pause_requested:
            return await self._pause(migration)
        return False

    async def _pause(self, migration: Migration) -> bool:
        journal = self.connections.migrations
        try:
            paused = await requests.pause(journal, migration, self.lease.owner)
        except InvalidStateTransitionError:
            # Another move has given it more time at this moment.
            await self.heartbeat.refresh(journal)
            return False
        self.heartbeat.migration = paused
        return True

    async def _give_up_return(self) -> bool:
        """As abort.carry_out: True when it is over."""
        migration_id = self.migration.id
        await progress.claim(self.connections.target, migration_id, self.lease.owner)
        if await decision.find(self.connections.fence, self.migration) is not None:
            await self.connections.migrations.withdraw_abort(migration_id)
            await self.heartbeat.refresh(self.connections.migrations)
            return False
        await fences.refuse_open(
            self.connections.target, self.migration.tenant_id, self.migration.id
        )
        await way_back.give_up_return(self.connections, self.migration, self.lease.owner)
        return True

    async def _has_decided(self) -> bool:
        """The journal lags the fence, as after a restore: it rolls forward."""
        fence = await fences.of_migration(self.connections.source, self.migration.id, "source")
        if decision.of(fence) is None:
            return False
        await self.to(MigrationState.CUTOVER_PAUSED, {"recovered": "the tenant has moved"})
        return True

    async def _prepare(self) -> None:
        if await self._has_decided():
            return
        try:
            prepared = await self.way.prepare(
                self.connections,
                self.migration,
                self.lease.owner,
                lambda: not self.heartbeat.stop_requested,
            )
        except brief_locks.LockNeverGranted:
            return
        await self.open_passes(prepared)
        assert self.passes is not None
        if not self.passes.at.pass_is_open:
            await self.passes.begin()
        total = await self.way.count(self.connections.source, self.passes, counting.AT_ONCE)
        await self.connections.migrations.record_progress(
            self.migration.id, self.lease.owner, self.passes.at.carried, total
        )
        await self.to(MigrationState.BULK_COPY)
        await failpoints.reach("bulk.entered.committed")

    async def _bulk(self) -> None:
        if await self._has_decided():
            return
        passes = await self.open_passes()
        with (
            self.heartbeat.attending(passes.session, bulk=True),
            telemetry.span("copy", self.migration),
        ):
            copied = passes.at.proven_snapshot is not None or await self._copy(passes)
        await passes.publish()
        if not copied:
            return  # asked to stop: the request is carried out next
        await self.to(MigrationState.DUAL_WRITE, {"events": passes.at.proven_rows})
        await failpoints.reach("follow.entered.committed")
        await self.way.after_the_copy(self.connections)

    async def _copy(self, passes: Any) -> bool:
        async with (
            counting.beside(self.way, self.connections, passes, self.heartbeat),
            held_up.watched(self.connections, self.migration.id, passes.session),
        ):
            return bool(await self.way.copy(passes, self.heartbeat.stop_asked))

    async def _follow(self) -> None:
        """One catch-up pass; then the cutover when asked for, else a rest."""
        if await self._has_decided():
            return
        asked, carried = self.migration.asked_for, 0
        try:
            passes = await self.open_passes()
            # A cutover that is asked for begins with passes of its own. One that was begun a moment
            # ago has left it little.
            if asked is None or not passes.is_recent:
                result = await self._catch_up(passes)
                if result is None:
                    return
                carried = result.rows
        except (EventSourceError, asyncpg.PostgresError) as error:
            # It is waited for, or ends the migration; who asked would hear of neither.
            if asked is not None:
                await cutting_over.refuse_unfit(self, asked, error)
            raise
        if (asked := self.migration.asked_for) is not None:
            with telemetry.span("rehearsal" if asked.rehearsal else "cutover", self.migration):
                await cutting_over.carry_out(self, passes, asked)
            return
        # What was written during a long pass has waited for its end already.
        if carried <= self.migration.config.chunk_rows:
            await self.heartbeat.rest(self.migration.config.pass_interval_seconds)

    async def _catch_up(self, passes: Any) -> Any:
        """The pass's outcome; None when it was asked to stop."""
        with self.heartbeat.attending(passes.session), telemetry.span("pass", self.migration):
            async with held_up.watched(self.connections, self.migration.id, passes.session):
                result = await passes.catch_up()
        if result is not None:
            telemetry.passed(self.migration, result.rows, result.inserted, result.seconds)
            await passes.publish()
        return result

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
        asked = self.migration.asked_for
        if decided is None:
            await fences.refuse_open(target, self.migration.tenant_id, self.migration.id)
            await self.to(MigrationState.DUAL_WRITE, {"recovered": "nothing was decided"})
            self.doing = Doing.CARRYING_ON
            return
        await fences.end_abort(target, self.migration)
        try:
            await decision.open_target(target, self.migration, decided)
        except RepairNeededError:
            decided = await self._repair(decided)
            await decision.open_target(target, self.migration, decided)
        # Who has asked for an abort hears of it now, whatever the target may still wait for.
        await self.connections.migrations.withdraw_abort(self.migration.id)
        await self.way.opened(self.connections, self.migration, decided)
        await decision.finish(self.connections.migrations, self.migration, decided)
        if asked is not None and not asked.rehearsal:
            await self.connections.migrations.answer(
                self.migration.id, asked, {"code": failures.OK}
            )
        await self.way.tidy(self.connections, self.migration)

    async def _repair(self, decided: decision.Decision) -> decision.Decision:
        repaired: decision.Decision = await self.way.repair(
            self.connections, self.migration, self.lease.owner, decided
        )
        return repaired
