"""Asking for a cutover, rehearsing it, and looking who would be in its way."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventsource.migration import failures
from eventsource.migration.connections import blockers, writers
from eventsource.migration.errors import InvalidStateTransitionError
from eventsource.migration.event_table import of_store
from eventsource.migration.rehearsals import Rehearsal
from eventsource.migration.repositories.audit import PostgreSQLAuditLogRepository
from eventsource.migration.repositories.router_reports import RouterReport, RouterReports
from eventsource.migration.states import MigrationState
from eventsource.migration.tables import fences

if TYPE_CHECKING:
    from eventsource.migration.background import BackgroundDrivers
    from eventsource.migration.errors import Blocker
    from eventsource.migration.models import Migration, MigrationConfig
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository

_S = MigrationState
_UNDER_WAY = frozenset({_S.PENDING, _S.BULK_COPY, _S.DUAL_WRITE, _S.CUTOVER_PAUSED})

#: What a pause may be limited to at least (seconds), as `MigrationConfig` has it.
SHORTEST_PAUSE = 0.05


class Cutovers:
    """Of the coordinator: what is about cutovers."""

    _migrations: PostgreSQLMigrationRepository
    _drivers: BackgroundDrivers

    async def initiate_cutover(
        self,
        migration_id: UUID,
        force: bool = False,
        *,
        operator: str | None = None,
        max_pause_seconds: float | None = None,
        compared: bool = False,
    ) -> Migration:
        """Move the tenant over; returns the finished migration.

        While the bulk copy is still running the cutover follows it. ``force`` skips the full
        verification before the fence, never the proof of the last pass.

        Args:
            max_pause_seconds: what writers may wait this time, at most the configured
                ``cutover_timeout_seconds``.
            compared: both stores were compared just now and that is in the audit log: it is not
                done again.

        Raises:
            CutoverTimeoutError: the pause would have exceeded its budget; back in dual-write.
            ConsistencyError: source and target differ; back in dual-write, nothing flipped.
            InvalidStateTransitionError: paused or over.
            ValueError: ``max_pause_seconds`` is out of its range.
        """
        migration = await self._migrations.get_to_change(migration_id)
        refuse_budget(migration.config, max_pause_seconds)
        await self._drivers.refuse_other_places(migration)
        # Who asks for it has no time set for it: that of an earlier move would pause it instead.
        await self._migrations.set_pause_at(migration_id, None, operator)
        comparison = "done before" if compared else "left out" if force else "before the fence"
        while not await self._migrations.request_cutover(
            migration_id, uuid4(), force or compared, operator, comparison,
            max_pause_seconds=max_pause_seconds,
        ):  # fmt: skip
            current = await self._migrations.get_to_change(migration_id)
            if current.state is _S.MIGRATED:
                return current
            if current.state not in _UNDER_WAY:
                raise InvalidStateTransitionError(migration_id, current.state, "cut over")
            if current.cutover_request is not None:
                break  # another process asked first: its answer is ours
            if current.state is _S.CUTOVER_PAUSED:
                # One that failed was answered, and its driver died before it had asked the fence;
                # or it is a rehearsal.
                await self._drivers.wait(migration_id, lambda m: m.state is not _S.CUTOVER_PAUSED)
        self._drivers.stand_by(migration_id)
        # If another process asks again before we read our answer, its request replaces it; we then
        # return the next answer.
        migration = await self._drivers.wait(
            migration_id, lambda m: m.cutover_request is None or m.state.is_final
        )
        if migration.state is not _S.MIGRATED:
            if migration.cutover_outcome is not None:
                failures.raise_for(migration.cutover_outcome, migration)
            raise InvalidStateTransitionError(migration_id, migration.state, "cut over")
        await self._drivers.let_end(migration_id)
        return migration

    async def rehearse_cutover(
        self,
        migration_id: UUID,
        force: bool = False,
        *,
        operator: str | None = None,
        max_pause_seconds: float | None = None,
    ) -> Rehearsal:
        """Do everything of a cutover but the decision, and say how long the writers waited.

        The fence is held, appends in flight end, the last pass runs and is proven, and the writers
        go on at the source. It follows the bulk copy, as a cutover does.

        Raises:
            CutoverTimeoutError: the pause would have exceeded its budget.
            ConsistencyError, PreflightError: what a cutover would have failed for.
            InvalidStateTransitionError: paused or over, or a cutover is asked for.
            ValueError: ``max_pause_seconds`` is out of its range.
        """
        migration = await self._migrations.get_to_change(migration_id)
        refuse_budget(migration.config, max_pause_seconds)
        await self._drivers.refuse_other_places(migration)
        options = {"force": force, "max_pause_seconds": max_pause_seconds}
        request = uuid4()
        while not await self._migrations.request_rehearsal(
            migration_id, request, options, operator
        ):
            current = await self._migrations.get_to_change(migration_id)
            if current.state not in _UNDER_WAY or current.cutover_request is not None:
                raise InvalidStateTransitionError(migration_id, current.state, "rehearse a cutover")
            if current.rehearsal_request is not None:
                request = current.rehearsal_request
                break  # another process asked first: its answer is ours
            await self._drivers.wait(migration_id, lambda m: m.state is not _S.CUTOVER_PAUSED)
        self._drivers.stand_by(migration_id)
        migration = await self._drivers.wait(
            migration_id, lambda m: m.rehearsal_request != request or m.state.is_final
        )
        outcome = migration.rehearsal_outcome
        if outcome is None or outcome.get("request") != str(request):
            raise InvalidStateTransitionError(migration_id, migration.state, "rehearse a cutover")
        failures.raise_for(outcome, migration)
        return Rehearsal.of(migration.updated_at, operator, outcome)

    async def rehearsals(self, migration_id: UUID) -> list[Rehearsal]:
        """The rehearsals of a migration's cutover, oldest first."""
        found, asked = [], {}
        log = PostgreSQLAuditLogRepository(self._migrations.pool)
        for entry in await log.get_by_migration(migration_id):
            request = entry.details.get("request")
            if entry.event_type == "rehearsal_requested":
                asked[request] = entry.operator
            elif entry.event_type == "rehearsal_answered":
                found.append(Rehearsal.of(entry.created_at, asked.get(request), entry.details))
        return found

    async def routers(self, migration_id: UUID) -> list[RouterReport]:
        """What the processes that append for the tenant say of the target, by name.

        A cutover is refused with ``RoutersNotReadyError`` while one of them that still runs could
        not write there. Processes that have not appended since they started say nothing.
        """
        migration = await self._migrations.get(migration_id)
        return await RouterReports(self._migrations.pool).of_migration(migration.id)

    async def unreported_sessions(self, migration_id: UUID) -> int:
        """How many sessions at the source may append for the tenant and belong to no router that
        has said anything: of older versions, of processes that have not appended yet, of others.

        None of them is waited for.
        """
        migration = await self._migrations.get(migration_id)
        source, _ = self._drivers.stores_of(migration)
        there = await writers.count(await of_store(source))
        reports = await self.routers(migration_id)
        return max(0, there - sum(each.sessions for each in reports if each.is_live))

    async def leave_out_router(
        self, migration_id: UUID, router: str, *, operator: str | None = None
    ) -> None:
        """Let the cutover go ahead although this router could not write at the target.

        Raises:
            MigrationError: no router of that name has reported.
        """
        migration = await self._migrations.get_to_change(migration_id)
        await RouterReports(self._migrations.pool).leave_out(migration.id, router, operator)
        await self._migrations.audit(
            migration.id, "router:left_out", {"router": router}, operator=operator
        )

    async def in_the_way(self, migration_id: UUID, seconds: float = 0.5) -> list[Blocker]:
        """Whose appends of the tenant have been in flight for so long: a cutover waits for them."""
        migration = await self._migrations.get(migration_id)
        source, _ = [await of_store(store) for store in self._drivers.stores_of(migration)]
        fence = await fences.read(source, migration.tenant_id)
        if fence is None:
            return []
        return await blockers.of_fence(source.connection, fences.LOCK_CLASS, fence.lock_id, seconds)


def refuse_budget(config: MigrationConfig, seconds: float | None) -> None:
    """Before anything is asked for.

    Raises:
        ValueError: no cutover of a migration so configured may hold up writers for ``seconds``.
    """
    most = config.cutover_timeout_seconds
    if seconds is not None and not SHORTEST_PAUSE <= seconds <= most:
        raise ValueError(
            f"the longest pause of a cutover is between {SHORTEST_PAUSE:g} and {most:g} s, the"
            f" migration's cutover_timeout_seconds, and not {seconds:g}: after that its writers"
            " would be refused"
        )
