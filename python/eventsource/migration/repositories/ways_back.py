"""Ways back: what stands by after a move, in a table of its own.

A version that knows nothing of them must not take one for a migration that it may drive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.connections import transaction
from eventsource.declared import as_declared
from eventsource.migration.errors import LeaseLostError, MigrationError
from eventsource.migration.protocol import SPOKEN
from eventsource.migration.repositories import control_place
from eventsource.named_sql import statements
from eventsource.retried import Retried
from eventsource.tenant_ids import TenantId, restored, stored

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.models import Migration

_SQL = statements("eventsource.migration.repositories.sql", "ways_back.sql")
_ROUTES = statements("eventsource.migration.repositories.sql", "routing.sql")
_SELECT = _SQL["select_columns"]

#: After so long without anybody who looked at it a way back counts as not followed (seconds). The
#: alert of `deploy/prometheus` rings then; a `work` looks every few seconds.
UNFOLLOWED_SECONDS = 300.0

#: The control table.
TABLE = "tenant_ways_back"


@dataclass(frozen=True, slots=True)
class WayBack:
    """The way back of a finished migration.

    Attributes:
        id: of the migration that it becomes when somebody returns.
        migration_id: whose way back it is.
        state: ``preparing``, ``standby``, ``returning``, ``closing``, ``closed`` or ``refused``.
        reason: why it was refused or closed, or what keeps it from being followed.
        source_store_id: the store where the tenant lives, which it would leave.
        target_store_id: the store that it would return to.
        kept_until: when it ends by itself; None before the move is over.
        is_over: whether that time has passed.
        is_followed: whether some process carries events at this moment; one that has nothing to
            carry holds it only for the moment in which it looks.
        unfollowed_seconds: since some process has looked at it last, or since the move was over; 0
            while one does. None before the move is over.
        carried: events that were carried to the store that the tenant left.
        lag: events that were not, when it was last followed.
        followed_at: when that was.
        protocol: the version of the protocol that a process has to speak to carry it on.
        moved_state, return_state: states of the migration, and of the return if one was asked for.
    """

    id: UUID
    migration_id: UUID
    tenant_id: TenantId
    state: str
    reason: str | None
    generation: int
    keep_seconds: float
    protocol: int
    carried: int
    lag: int | None
    followed_at: datetime | None
    driver_owner: UUID | None
    created_at: datetime
    source_store_id: str
    target_store_id: str
    moved_state: str
    return_state: str | None
    kept_until: datetime | None
    is_over: bool
    is_followed: bool
    unfollowed_seconds: float | None

    @property
    def is_newer(self) -> bool:
        """Whether a newer version carries it on, and this one leaves it alone."""
        return self.protocol > SPOKEN

    @property
    def is_open(self) -> bool:
        """Whether the tenant may return by it."""
        return self.state == "standby" and self.moved_state == "migrated" and not self.is_over

    @property
    def is_left_alone(self) -> bool:
        """Whether it is open and nobody has looked at it for long: its lag grows unseen."""
        return self.is_open and (self.unfollowed_seconds or 0.0) > UNFOLLOWED_SECONDS

    @property
    def shown(self) -> str:
        """Where it stands, in a word."""
        if self.state == "standby":
            if self.moved_state != "migrated":
                return "waits for the cutover"
            return "expired" if self.is_over else "armed"
        if self.state == "returning" and self.return_state == "migrated":
            return "returned"
        return self.state


class WaysBack:
    """Ways back in the control database.

    Args:
        pool: an asyncpg pool or connection.
    """

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self._sql = Retried(pool)

    async def get(self, way_id: UUID) -> WayBack | None:
        """The one with this id."""
        return await self._one("where w.id = $1", way_id)

    async def of_migration(self, migration_id: UUID) -> WayBack | None:
        """The newest of a migration."""
        return await self._one(
            "where w.migration_id = $1 order by w.created_at desc limit 1", migration_id
        )

    async def of_tenant(self, tenant_id: TenantId) -> WayBack | None:
        """The one that a tenant may return by, or that keeps it from leaving otherwise."""
        return await self._one(
            "where w.tenant_id = $1 and w.state in ('preparing', 'standby', 'closing')"
            " order by w.created_at desc limit 1",
            stored(tenant_id),
        )

    async def get_all(self) -> list[WayBack]:
        """Every one, oldest first."""
        rows = await self._sql.fetch(f"{_SELECT} order by w.created_at, w.id")
        return [_made(row) for row in rows]

    async def standing_by(self) -> list[WayBack]:
        """Those that are kept ready, oldest first."""
        rows = await self._sql.fetch(
            f"{_SELECT} where w.state = 'standby' order by w.created_at, w.id"
        )
        return [_made(row) for row in rows]

    async def due(self) -> list[WayBack]:
        """Those that a process may follow or has to close."""
        rows = await self._sql.fetch(
            f"{_SELECT} where w.state in ('standby', 'closing')"
            " and (w.state = 'closing' or m.state = 'migrated')"
            " and coalesce(w.driver_expires_at < now(), true)"
            " order by w.followed_at nulls first, w.id"
        )
        return [_made(row) for row in rows]

    async def insert(
        self, way_id: UUID, migration: Migration, driver: UUID, keep_seconds: float, owner: UUID
    ) -> None:
        """Record that one is being prepared.

        Raises:
            LeaseLostError: the driver is not the migration's any more; nothing was recorded.
        """
        if not await self.pool.fetch(
            _SQL["insert"], way_id, migration.id, stored(migration.tenant_id),
            migration.generation + 1, keep_seconds, owner, driver,
        ):  # fmt: skip
            raise LeaseLostError(f"another driver carries migration {migration.id} on")

    async def change(
        self, way_id: UUID, before: Sequence[str], state: str, reason: str | None = None,
        operator: str | None = None,
    ) -> bool:  # fmt: skip
        """To another state, if it is in one of those; whether it was."""
        return bool(
            await self._sql.fetch(_SQL["change"], way_id, list(before), state, reason, operator)
        )

    async def end(
        self, way_id: UUID, reason: str, *, now: bool, operator: str | None = None
    ) -> bool:
        """Begin to close it, also before its time; False when a return is asked for."""
        return bool(await self._sql.fetch(_SQL["end"], way_id, reason, now, operator, SPOKEN))

    async def follow(
        self, way_id: UUID, owner: UUID, seconds: float, states: Sequence[str] = ("standby",)
    ) -> bool:
        """Become the one that follows it for so long."""
        return bool(
            await self._sql.fetch(_SQL["follow"], way_id, owner, seconds, list(states), SPOKEN)
        )

    async def hold(self, way_id: UUID, owner: UUID, seconds: float) -> bool:
        """Stay the one that follows it, for so long from now; False when another one does."""
        return bool(await self._sql.fetch(_SQL["hold"], way_id, owner, seconds))

    async def followed(
        self, way_id: UUID, owner: UUID, carried: int, lag: int, reason: str | None = None
    ) -> None:
        """Publish how far it is, and let others follow."""
        await self._sql.execute(_SQL["followed"], way_id, owner, carried, lag, reason)

    async def stay(self, way_id: UUID, owner: UUID, seconds: float, carried: int, lag: int) -> bool:
        """Publish how far it is, and follow on; False when somebody else has to do with it."""
        return bool(await self._sql.fetch(_SQL["stay"], way_id, owner, carried, lag, seconds))

    async def leave(self, way_id: UUID, owner: UUID, reason: str | None) -> bool:
        """Let others follow; say why this process does not. False when it is not ours any more."""
        return bool(await self._sql.fetch(_SQL["leave"], way_id, owner, reason))

    async def ask_return(
        self, way: WayBack, config: Mapping[str, Any], operator: str | None
    ) -> bool:
        """Make a migration of it, which takes the route; False when it is not open any more."""
        place = await control_place.as_json(self.pool)
        async with transaction(self.pool) as connection:
            if not await connection.fetch(
                _SQL["ask_return"], way.id, json.dumps(dict(config)), operator, SPOKEN, place
            ):
                return False
            if not await connection.fetch(
                _ROUTES["begin"], stored(way.tenant_id), way.source_store_id, way.target_store_id,
                way.generation, way.id,
            ):  # fmt: skip
                raise MigrationError(
                    f"the route of tenant {way.tenant_id} is not the one that the move has made"
                    f" (store {way.source_store_id!r}, generation {way.generation}): nothing was"
                    " changed"
                )
        return True

    async def give_up(self, way_id: UUID) -> None:
        """A return was aborted: it stands by as before."""
        await self._sql.execute(_SQL["give_up"], way_id)

    async def _one(self, condition: str, *arguments: object) -> WayBack | None:
        row = await self._sql.fetchrow(f"{_SELECT} {condition}", *arguments)
        return _made(row) if row is not None else None


def _made(row: Any) -> WayBack:
    return WayBack(**{**as_declared(WayBack, row), "tenant_id": restored(row["tenant_id"])})
