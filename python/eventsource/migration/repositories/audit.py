"""What happened to a migration, who asked for it and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.declared import as_declared
from eventsource.named_sql import statements
from eventsource.retried import Retried

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "lookups.sql")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of the audit log; ``event_type`` of a transition is ``state:<new state>``."""

    id: int
    migration_id: UUID
    event_type: str
    details: dict[str, Any]
    operator: str | None
    created_at: datetime


class PostgreSQLAuditLogRepository:
    """The audit log in the control database.

    Args:
        pool: an asyncpg pool or connection.
    """

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self._sql = Retried(pool)

    async def get_by_migration(self, migration_id: UUID) -> list[AuditEntry]:
        """Every entry of the migration, oldest first."""
        rows = await self._sql.fetch(_SQL["audit_of"], migration_id)
        return [
            AuditEntry(
                **{**as_declared(AuditEntry, row), "details": json.loads(row["details"] or "{}")}
            )
            for row in rows
        ]
