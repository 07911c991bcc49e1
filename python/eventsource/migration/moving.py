"""A whole move as one call that may be made twice: what a queue, a schedule or a script carries."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID, uuid4

from eventsource.connections import redact, transaction
from eventsource.migration import failures
from eventsource.migration.errors import (
    DeadlineReachedError,
    InvalidStateTransitionError,
    MigrationAbortedError,
    MigrationAlreadyExistsError,
    MigrationError,
    MigrationPausedError,
    PreflightError,
    RetryLaterError,
    RoutingError,
    StoreGoneBackError,
)
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.background import BackgroundDrivers
    from eventsource.migration.driver.news import Call
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.tenant_ids import TenantId

_S = MigrationState

#: From these a driver can still be asked to pause.
_PAUSABLE = frozenset({_S.PENDING, _S.BULK_COPY, _S.DUAL_WRITE})

#: Asked in the transaction that asks for the cutover; what it raises is what the move raises.
Permit: TypeAlias = Callable[["Executor", "Migration"], Awaitable[None]]

#: Hears of the migration before it is carried on.
Begun: TypeAlias = Callable[["Migration"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wish:
    """Which tenant shall move, and under what conditions.

    Attributes:
        until: when the move is parked; None gives it as long as it takes.
        permit: says in the transaction that would ask for the cutover whether it may.
        begun: hears which migration it is.
    """

    tenant_id: TenantId
    source_id: str
    target_id: str
    operator: str | None
    until: datetime | None = None
    permit: Permit | None = None
    begun: Begun | None = None

    def __post_init__(self) -> None:
        if self.until is not None and self.until.tzinfo is None:
            raise ValueError("until must have a time zone: a move may be carried on elsewhere")
        if self.source_id == self.target_id:
            raise ValueError(f"source and target are both {self.source_id!r}: name two stores")

    @property
    def is_late(self) -> bool:
        return self.until is not None and datetime.now(UTC) >= self.until


@dataclass(slots=True)
class Move:
    """One call; it remembers nothing that another one would need.

    Attributes:
        start, resume: those of the coordinator, for this tenant.
        home: the store of a tenant without a route.
    """

    wish: Wish
    migrations: PostgreSQLMigrationRepository
    routes: PostgreSQLRoutingRepository
    drivers: BackgroundDrivers
    home: str
    start: Callable[[], Awaitable[Migration]]
    resume: Callable[[UUID], Awaitable[Migration]]
    #: The migration that this call has begun.
    started: UUID | None = None
    #: The cutover that is waited for.
    request: UUID | None = None

    async def to_the_end(self) -> Migration | None:
        with _by_type():
            migration = await self._begin()
            if migration is None or migration.state is _S.MIGRATED:
                return migration
            if self.wish.begun is not None:
                await self.wish.begun(migration)
            # What this call has begun a moment ago names the places that it found.
            if migration.id != self.started:
                await self.drivers.refuse_other_places(migration)
            await self._set_the_time(migration)
            self.drivers.stand_by(migration.id)
            return await self._carry_on(migration)

    async def _begin(self) -> Migration | None:
        """The migration to join; None where the tenant has always lived in the target."""
        try:
            there, migration = await self._look()
            if there or migration is not None:
                return migration
            if self.wish.is_late:
                raise DeadlineReachedError(self.wish.tenant_id, None)
            migration = await self.start()
            self.started = migration.id
            return migration
        except (MigrationAlreadyExistsError, PreflightError, RoutingError):
            # Another process may have begun since, and may be done by now.
            there, migration = await self._look()
            if not there and migration is None:
                raise
            return migration

    async def _look(self) -> tuple[bool, Migration | None]:
        """Whether the tenant lives in the target, and its migration that counts.

        Raises:
            MigrationError: the tenant is on its way elsewhere, or its last migration has failed.
        """
        wish = self.wish
        # The route first: a migration that ends after it was read is found among the others.
        route = await self.routes.get_routing(wish.tenant_id)
        found = await self.migrations.get_by_tenant(wish.tenant_id)
        active = next((each for each in found if not each.state.is_final), None)
        if active is not None:
            failures.refuse_newer(active)
            if (active.source_store_id, active.target_store_id) != (wish.source_id, wish.target_id):
                raise MigrationAlreadyExistsError(wish.tenant_id, active.id)
            return False, active
        if (route.store_id if route else self.home) == wish.target_id:
            done = [each for each in found if each.state is _S.MIGRATED]
            return True, done[-1] if done else None
        if found and found[-1].state is _S.FAILED:
            raise failures.of_failed(found[-1])
        return False, None

    async def _set_the_time(self, migration: Migration) -> None:
        """Write down when it has to pause, and forget what an earlier move has said of that.

        What is paused has the time set by what resumes it, if that is before it is over.
        """
        if migration.state is not _S.PAUSED and migration.pause_at != self.wish.until:
            operator = self.wish.operator
            await self.migrations.set_pause_at(migration.id, self.wish.until, operator)

    async def _carry_on(self, begun: Migration) -> Migration:
        # Of what this call has made a moment ago the row is at hand.
        known = begun if begun.id == self.started else None
        with self.drivers.news.of(begun.id) as call:
            return await self._carry_on_with(begun.id, call, known)

    async def _carry_on_with(
        self, migration_id: UUID, call: Call, known: Migration | None
    ) -> Migration:
        while True:
            call.news.clear()
            migration = known or call.take() or await self.drivers.read(migration_id)
            known = None
            if migration.state is _S.MIGRATED:
                await self.drivers.let_end(migration_id)
                return migration
            self._refuse_what_is_over(migration)
            if migration.state is _S.PAUSED:
                await self._resume(migration)
                continue
            if self.wish.is_late and migration.state in _PAUSABLE:
                if not await self._park(migration):
                    raise DeadlineReachedError(self.wish.tenant_id, migration_id)
                continue
            self._hear_the_answer(migration)
            if migration.state is _S.DUAL_WRITE and self.request is None:
                await self._ask_for_the_cutover(migration)
            self.drivers.carry(migration, call)
            call.expect()
            await self.drivers.until_news(migration_id, call)

    def _refuse_what_is_over(self, migration: Migration) -> None:
        failures.refuse_newer(migration)
        if migration.state is _S.FAILED:
            raise failures.of_failed(migration)
        if migration.state is _S.ROLLED_BACK:
            raise MigrationAbortedError(migration.id)
        if migration.state is _S.PAUSED and not migration.parked:
            raise MigrationPausedError(migration.id)
        # It waits for somebody to decide, and no time changes that. An address that leads to
        # another place is different: it may be that of another process.
        waits_with = failures.recorded(migration)
        if isinstance(waits_with, StoreGoneBackError):
            raise waits_with

    async def _resume(self, migration: Migration) -> None:
        """Go on with what a move has parked, unless it is too late for this one too."""
        if self.wish.is_late or await self._is_late_there():
            raise DeadlineReachedError(self.wish.tenant_id, migration.id)
        self.request = None
        # Another process may be faster, and what it has made of it is read next.
        with contextlib.suppress(InvalidStateTransitionError):
            await self.resume(migration.id)

    async def _is_late_there(self) -> bool:
        """By the clock that the pause goes by: it would be resumed in vain until ours agrees."""
        if self.wish.until is None:
            return False
        late: bool = await self.migrations.pool.fetchval(
            "select $1::timestamptz <= clock_timestamp()", self.wish.until
        )
        return late

    def _hear_the_answer(self, migration: Migration) -> None:
        """Raise what the cutover that was waited for was answered with, unless it was withdrawn."""
        if migration.cutover_request is not None:
            self.request = migration.cutover_request
            return
        outcome, asked, self.request = migration.cutover_outcome, self.request, None
        if asked is None or outcome is None or outcome.get("request") != str(asked):
            return
        # The answer of a pause that was over before it was seen: the cutover is asked for again.
        if outcome["code"] != InvalidStateTransitionError.code:
            failures.raise_for(outcome, migration)

    async def _ask_for_the_cutover(self, migration: Migration) -> None:
        request = uuid4()
        try:
            async with transaction(self.migrations.pool) as connection:
                if self.wish.permit is not None:
                    await self.wish.permit(connection, migration)
                journal = PostgreSQLMigrationRepository(connection)
                asked = await journal.request_cutover(
                    migration.id, request, False, self.wish.operator
                )
        except RetryLaterError:
            # Not now: what it takes of the servers until then is for others.
            await self._park(migration)
            raise
        if asked:
            self.request = request

    async def _park(self, migration: Migration) -> bool:
        """Pause it for the next move; whether this one has to go on with it all the same.

        A cutover that has begun is not interrupted.
        """
        if await self.migrations.request_pause(migration.id, self.wish.operator, parked=True):
            migration = await self.drivers.wait(
                migration.id, lambda m: not m.pause_requested or m.state not in _PAUSABLE
            )
        else:
            migration = await self.drivers.read(migration.id)
        return migration.state not in (_S.PAUSED, *_PAUSABLE)


@contextlib.contextmanager
def _by_type() -> Iterator[None]:
    """What may pass is a RetryLaterError, whatever the library is that raised it."""
    try:
        yield
    except PreflightError as error:
        if not error.passes:
            raise
        raise RetryLaterError(f"the move cannot begin yet: {error}") from error
    except MigrationError:
        raise
    except Exception as error:
        if not failures.may_pass(error):
            raise
        reason = redact(str(error)) or type(error).__name__
        raise RetryLaterError(
            f"the move was interrupted ({reason}); what it has done stays, move the tenant again"
        ) from error
