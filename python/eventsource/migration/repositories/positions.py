"""The mapping of a migration's positions, and the row of the migration that explains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.declared import uuid_of
from eventsource.migration.models import (
    BEFORE_EVERY_POSITION,
    LAST_POSITION,
    MappedPosition,
    Migration,
)
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.named_sql import statements
from eventsource.retried import Retried

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "positions.sql")
# Rows removed per transaction; a mapping may have tens of millions.
_DELETE_PAGE = 50_000


class PostgreSQLPositionMappingRepository:
    """Position mappings in the control database. The data plane writes them, this reads.

    Args:
        pool: an asyncpg pool or connection.
    """

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self._sql = Retried(pool)
        self._migrations = PostgreSQLMigrationRepository(pool)

    async def migration(self, migration_id: UUID) -> Migration:
        """The migration whose positions these are, or MigrationNotFoundError."""
        return await self._migrations.get(migration_id)

    async def first(self, migration_id: UUID) -> MappedPosition | None:
        """The mapped event with the lowest source position."""
        return await self._row("first", migration_id)

    async def last(self, migration_id: UUID) -> MappedPosition | None:
        """The mapped event with the highest source position."""
        return await self._row("last", migration_id)

    async def next_after(self, migration_id: UUID, source_position: int) -> MappedPosition | None:
        """The first mapped event above a source position."""
        return await self._row("next_after", migration_id, source_position)

    async def lowest_target_after(self, migration_id: UUID, source_position: int) -> int | None:
        """The lowest target position of all events above a source position."""
        lowest: int | None = await self._sql.fetchval(
            _SQL["lowest_target_after"], migration_id, source_position
        )
        return lowest

    async def highest_target(self, migration_id: UUID) -> int | None:
        """The highest target position of all mapped events."""
        highest: int | None = await self._sql.fetchval(_SQL["highest_target"], migration_id)
        return highest

    async def count(
        self,
        migration_id: UUID,
        *,
        after: int = BEFORE_EVERY_POSITION,
        up_to: int = LAST_POSITION,
        target_after: int = BEFORE_EVERY_POSITION,
    ) -> int:
        """Mapped events with ``after`` < source position <= ``up_to`` and target position above
        ``target_after``; without bounds, all of them."""
        rows: int = await self._sql.fetchval(
            _SQL["count"], migration_id, after, up_to, target_after
        )
        return rows

    def through_returns(self) -> PostgreSQLPositionMappingRepository:
        """The same, for a return: with what the moves before it have mapped."""
        return _ThroughReturns(self.pool)

    async def delete(self, migration_id: UUID) -> int:
        """Remove the whole mapping, page by page; returns the number of rows.

        Stopped half-way it has removed the lower positions; a second call removes the rest.
        """
        removed, position = 0, BEFORE_EVERY_POSITION
        while True:
            page = await self._sql.fetchrow(
                _SQL["delete_page"], migration_id, position, _DELETE_PAGE
            )
            if page["position"] is None:
                return removed
            removed += page["rows"]
            position = page["position"]

    async def add(self, migration_id: UUID, rows: Sequence[MappedPosition]) -> None:
        """Map events that are not mapped yet; the others stay as they are."""
        await self._sql.execute(
            _SQL["add"], migration_id, [row.source_position for row in rows],
            [row.target_position for row in rows], [row.event_id for row in rows],
        )  # fmt: skip

    async def remove(self, migration_id: UUID, target_positions: Sequence[int]) -> None:
        """Forget events that were taken out of the target."""
        await self._sql.execute(_SQL["remove_events"], migration_id, list(target_positions))

    async def sources_of(
        self, migration_ids: Sequence[UUID], event_ids: Sequence[UUID]
    ) -> dict[UUID, int]:
        """The source positions of these events, where one of the migrations has mapped them."""
        rows = await self._sql.fetch(_SQL["sources_of"], list(migration_ids), list(event_ids))
        return {uuid_of(row["event_id"]): row["position"] for row in rows}

    async def audit(
        self,
        migration_id: UUID,
        event_type: str,
        details: dict[str, object],
        operator: str | None,
    ) -> None:
        """Add a row to the migration's audit log."""
        await self._migrations.audit(migration_id, event_type, details, operator)

    async def _row(self, statement: str, *arguments: object) -> MappedPosition | None:
        row = await self._sql.fetchrow(_SQL[statement], *arguments)
        return MappedPosition(*row) if row is not None else None


class _ThroughReturns(PostgreSQLPositionMappingRepository):
    """The mapping of a return and of all that it goes back over."""

    async def lowest_target_after(self, migration_id: UUID, source_position: int) -> int | None:
        return await self._of_chain("lowest_target_after", migration_id, source_position)

    async def highest_target(self, migration_id: UUID) -> int | None:
        return await self._of_chain("highest_target", migration_id)

    async def count(
        self,
        migration_id: UUID,
        *,
        after: int = BEFORE_EVERY_POSITION,
        up_to: int = LAST_POSITION,
        target_after: int = BEFORE_EVERY_POSITION,
    ) -> int:
        return await self._of_chain("count", migration_id, after, up_to, target_after) or 0

    async def _of_chain(self, name: str, *arguments: object) -> int | None:
        statement = f"{_SQL['through_returns']} {_SQL[f'{name}_through_returns']}"
        found: int | None = await self._sql.fetchval(statement, *arguments)
        return found
