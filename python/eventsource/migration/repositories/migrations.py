"""The journal of migrations: creation, leases, requests and compare-and-set transitions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource import failpoints
from eventsource.connections import one_of, transaction
from eventsource.migration import changes, failures
from eventsource.migration.errors import (
    ConsistencyError,
    InvalidStateTransitionError,
    MigrationAlreadyExistsError,
    MigrationNotFoundError,
    RoutingError,
)
from eventsource.migration.models import Migration, MigrationConfig, StoreIdentity
from eventsource.migration.protocol import SPOKEN
from eventsource.migration.repositories import control_place, waves
from eventsource.migration.repositories.outcomes import explain_refusal, report
from eventsource.migration.repositories.requests import Requests
from eventsource.migration.states import ROUTE_STATES, MigrationState, may_follow
from eventsource.named_sql import statements
from eventsource.retried import Retried
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from datetime import datetime

    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "migrations.sql")
_ROUTES = statements("eventsource.migration.repositories.sql", "routing.sql")
_SELECT = _SQL["select_columns"]


def _and_read(statement: str, changed: str) -> str:
    """The statement, which returns the row as it has made it: nobody reads it after its commit."""
    columns, rest = _SELECT.split("from tenant_migrations")
    return f"{statement} {columns} from {changed} cross join announced {rest}"


INSERT = _and_read(_SQL["insert"], "created")
TRANSITION = _and_read(_SQL["transition"], "moved")


class PostgreSQLMigrationRepository(Requests):
    """Migrations in the control database.

    Args:
        pool: an asyncpg pool; a single connection works too (the driver uses one of its own).
    """

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self._sql = Retried(pool)

    async def create(
        self,
        *,
        migration_id: UUID,
        tenant_id: TenantId,
        source_store_id: str,
        target_store_id: str,
        config: MigrationConfig,
        generation: int,
        operator: str | None,
        source_identity: StoreIdentity | None = None,
        target_identity: StoreIdentity | None = None,
        pause_at: datetime | None = None,
    ) -> Migration:
        """Record a new migration and take the tenant's route over, in one transaction.

        Args:
            pause_at: when it is paused for the next move.

        Raises:
            MigrationAlreadyExistsError: the tenant has an active one.
            RoutingError: the tenant's route does not name the source store.
        """
        details = json.dumps({"source": source_store_id, "target": target_store_id})
        try:
            async with one_of(self.pool) as one:
                place = await control_place.as_json(one)
                async with transaction(one) as connection:
                    row = await connection.fetchrow(
                        INSERT, migration_id, stored(tenant_id), source_store_id,
                        target_store_id, config.to_json(), generation, details, operator,
                        source_identity.to_json() if source_identity else None,
                        target_identity.to_json() if target_identity else None, pause_at,
                        config.protocol, place,
                    )  # fmt: skip
                    await self._take_route(
                        connection, tenant_id, source_store_id, target_store_id, generation,
                        migration_id,
                    )  # fmt: skip
        except asyncpg.UniqueViolationError:
            active = await self._active_of(tenant_id)
            raise MigrationAlreadyExistsError(tenant_id, active) from None
        made = Migration.from_row(row)
        changes.announce("state", made, None, operator)
        return made

    async def _take_route(
        self, connection: Executor, tenant: TenantId, source: str, target: str, generation: int,
        migration_id: UUID,
    ) -> None:  # fmt: skip
        if not await connection.fetch(
            _ROUTES["begin"], stored(tenant), source, target, generation, migration_id
        ):
            raise RoutingError(
                f"tenant {tenant} is not routed to {source!r}; "
                "start the migration from the store that its route names"
            )

    async def get(self, migration_id: UUID) -> Migration:
        """The migration, or MigrationNotFoundError."""
        row = await self._sql.fetchrow(f"{_SELECT} where id = $1", migration_id)
        if row is None:
            raise MigrationNotFoundError(migration_id)
        return Migration.from_row(row)

    async def get_to_change(self, migration_id: UUID) -> Migration:
        """The same, for who wants something of it; ProtocolVersionError of a newer version's."""
        migration = await self.get(migration_id)
        failures.refuse_newer(migration)
        return migration

    async def get_active(self) -> list[Migration]:
        """Every migration that is not in a final state, oldest first."""
        return await self._list("where state not in ('migrated', 'rolled_back', 'failed')")

    async def get_many(self, migration_ids: Sequence[UUID]) -> list[Migration]:
        """Those of the migrations that there are, oldest first."""
        return await self._list("where id = any ($1::text[]::uuid[])", [*map(str, migration_ids)])

    async def get_by_tenant(self, tenant_id: TenantId) -> list[Migration]:
        """Every migration of the tenant, oldest first."""
        return await self._list("where tenant_id = $1", stored(tenant_id))

    async def get_all(self) -> list[Migration]:
        """Every migration, oldest first."""
        return await self._list("")

    async def _list(self, condition: str, *arguments: object) -> list[Migration]:
        rows = await self._sql.fetch(f"{_SELECT} {condition} order by created_at, id", *arguments)
        return [Migration.from_row(row) for row in rows]

    async def _active_of(self, tenant_id: TenantId) -> UUID | None:
        active = [m.id for m in await self.get_by_tenant(tenant_id) if not m.state.is_final]
        return active[0] if active else None

    async def record_abort(self, migration: Migration, owner: UUID) -> Migration:
        """Record that the abort which was asked for is carried out; raises as `transition`."""
        reason = migration.abort_requested
        return await self.transition(
            migration, MigrationState.ROLLED_BACK, owner=owner,
            details={"reason": reason}, error=("aborted", reason or "aborted"),
        )  # fmt: skip

    async def transition(
        self,
        migration: Migration,
        following: MigrationState,
        *,
        owner: UUID | None = None,
        details: Mapping[str, object] | None = None,
        error: tuple[str, str] | None = None,
        operator: str | None = None,
        request: UUID | None = None,
    ) -> Migration:
        """Move to ``following`` if nothing changed meanwhile, with audit row and route.

        Args:
            owner: the driver's token; None for requests that any process may carry out.
            error: code and message to record with the new state.
            request: the cutover that must still be asked for.

        Raises:
            InvalidStateTransitionError: not a legal transition, or the state has changed.
            MigrationAlreadyExistsError, RoutingError: a failed one cannot become active again.
            ProtocolVersionError: a newer version carries it on.
            LeaseLostError: ``owner`` no longer drives the migration.
        """
        if not may_follow(migration.state, following):
            raise InvalidStateTransitionError(migration.id, migration.state, f"become {following}")
        code, message = error or (None, None)
        try:
            async with transaction(self.pool) as connection:
                if following is MigrationState.FAILED and code == ConsistencyError.code:
                    await waves.stop_for(connection, migration.id, str(message))
                moved = await connection.fetchrow(
                    TRANSITION, migration.id, migration.state.value, following.value, owner,
                    json.dumps(dict(details or {})), code, message, operator, request, SPOKEN,
                )  # fmt: skip
                if moved is not None:
                    await self._follow_with_route(connection, migration, following)
                    if following is MigrationState.PAUSED:
                        await _refuse_what_is_asked(connection, migration.id)
                    await failpoints.reach("journal.transition")
        except asyncpg.UniqueViolationError:
            # A failed one that is resumed after another has begun.
            active = await self._active_of(migration.tenant_id)
            raise MigrationAlreadyExistsError(migration.tenant_id, active) from None
        # Read after the transaction: asking the pool for a second connection while holding one can
        # deadlock. A pause has answered what was asked since it changed the row.
        if moved is None or following is MigrationState.PAUSED:
            current = await self.get(migration.id)
        else:
            current = Migration.from_row(moved)
        if moved is None:
            explain_refusal(current, following, owner)
        else:
            report(migration, following, current, operator, details)
        return current

    async def reopen(self, migration: Migration, reason: str) -> None:
        """A move that was finished is not: its target was put back to before it was opened."""
        if migration.state is not MigrationState.MIGRATED:
            return
        with contextlib.suppress(InvalidStateTransitionError, asyncpg.UniqueViolationError):
            await self.transition(
                migration,
                MigrationState.CUTOVER_PAUSED,
                details={"reason": reason},
                error=("repair_needed", reason),
            )

    async def _follow_with_route(
        self, connection: Executor, migration: Migration, following: MigrationState
    ) -> None:
        tenant, migration_id = migration.tenant_id, migration.id
        key = stored(tenant)
        if migration.state is MigrationState.FAILED and not following.is_final:
            # Its end gave the route back: it takes it again as a start does.
            await self._take_route(
                connection, tenant, migration.source_store_id, migration.target_store_id,
                migration.generation, migration_id,
            )  # fmt: skip
        if following is MigrationState.MIGRATED:
            await connection.fetch(
                _ROUTES["finish"], key, migration_id, migration.target_store_id,
                migration.generation + 1,
            )  # fmt: skip
        elif following.is_final:
            await connection.fetch(_ROUTES["release"], key, migration_id)
        elif following in ROUTE_STATES:
            state = ROUTE_STATES[following].value
            await connection.fetch(_ROUTES["set_state"], key, migration_id, state)

    async def acquire_lease(
        self,
        migration_id: UUID,
        owner: UUID,
        name: str,
        seconds: float,
        stale: datetime | None = None,
    ) -> bool:
        """Become the driver if there is no live one, and this version may.

        Args:
            stale: an expiry that was not renewed in time, whatever the server's clock says of it.
        """
        row = await self._sql.fetchrow(
            _SQL["acquire_lease"], migration_id, owner, name, seconds, stale, SPOKEN
        )
        return row is not None

    async def full_stores(
        self, migration_id: UUID, owner: UUID, limits: Mapping[str, int]
    ) -> list[str]:
        """Which of the stores have as many driven migrations as they have room for.

        Inside a transaction: the answer holds until its end. An empty name is all migrations. None
        is full for what is not limited.
        """
        await self.pool.execute(_SQL["lock_places"], list(limits))
        rows = await self.pool.fetch(
            _SQL["full_stores"], migration_id, list(limits), [*map(str, limits.values())], owner
        )
        return [row["name"] for row in rows]

    async def acquire_place(
        self,
        migration_id: UUID,
        owner: UUID,
        name: str,
        seconds: float,
        limits: Mapping[str, int],
        stale: datetime | None = None,
    ) -> tuple[bool, list[str]]:
        """As `acquire_lease`, where there is room; whether it was, and what is full."""
        async with transaction(self.pool) as connection:
            journal = PostgreSQLMigrationRepository(connection)
            if full := await journal.full_stores(migration_id, owner, limits):
                return False, full
            return await journal.acquire_lease(migration_id, owner, name, seconds, stale), []

    async def record_wait(self, migration_id: UUID, message: str) -> None:
        """Publish why a migration has no driver yet."""
        await self.pool.execute(_SQL["record_wait"], migration_id, message)

    async def renew_lease(self, migration_id: UUID, owner: UUID, seconds: float) -> bool:
        """Stay the driver; False when another one took over."""
        row = await self._sql.fetchrow(_SQL["renew_lease"], migration_id, owner, seconds)
        return row is not None

    async def release_lease(self, migration_id: UUID, owner: UUID) -> None:
        """Let another driver begin at once."""
        await self._sql.execute(_SQL["release_lease"], migration_id, owner)

    async def record_progress(
        self, migration_id: UUID, owner: UUID, events_copied: int, total_events: int | None
    ) -> None:
        """Publish how far the copy is (events); None leaves the total as it is known."""
        await self._sql.execute(
            _SQL["record_progress"], migration_id, owner, events_copied, total_events
        )

    async def record_throttle(
        self, migration_id: UUID, owner: UUID, rate: float | None, reason: str | None
    ) -> None:
        """Publish what the copy is held to to spare the source (events per second), and why."""
        await self._sql.execute(_SQL["record_throttle"], migration_id, owner, rate, reason)

    async def record_error(
        self, migration_id: UUID, owner: UUID, message: str | None, code: str | None = None
    ) -> None:
        """Publish why the driver is waiting; None clears it."""
        await self._sql.execute(_SQL["record_error"], migration_id, owner, message, code)

    async def require_protocol(self, migration_id: UUID, owner: UUID, protocol: int) -> None:
        """From here on processes that do not speak this version leave the migration alone."""
        await self._sql.execute(_SQL["require_protocol"], migration_id, owner, protocol)

    async def record_offset(self, migration_id: UUID, owner: UUID, offset: int) -> None:
        """Publish the carried offset of positions."""
        await self._sql.execute(_SQL["record_offset"], migration_id, owner, offset)

    async def record_decision(
        self, migration_id: UUID, fence_position: int, offset: int | None, pause_ms: float | None,
        longest_wait_ms: float | None = None, events: int | None = None,
    ) -> None:  # fmt: skip
        """Publish where the source ended; ``pause_ms`` is None when recovery finished the flip."""
        await self._sql.execute(
            _SQL["record_decision"], migration_id, fence_position, offset, pause_ms,
            longest_wait_ms, events,
        )  # fmt: skip

    async def audit(
        self,
        migration_id: UUID,
        event_type: str,
        details: Mapping[str, object],
        operator: str | None = None,
    ) -> None:
        """Add a row to the audit log."""
        await self._sql.execute(
            _SQL["audit"], migration_id, event_type, json.dumps(dict(details)), operator
        )


async def _refuse_what_is_asked(connection: Executor, migration_id: UUID) -> None:
    """Answer in the pausing transaction: once it commits, no driver is left to answer."""
    journal = PostgreSQLMigrationRepository(connection)
    for wanted in ("cut over", "rehearse a cutover"):
        asked = (await journal.get(migration_id)).asked_for
        if asked is None:
            return
        refused = InvalidStateTransitionError(migration_id, MigrationState.PAUSED, wanted)
        await journal.answer(migration_id, asked, failures.describe(refused))
