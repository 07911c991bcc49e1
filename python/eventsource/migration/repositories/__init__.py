"""Repositories over the four control tables; each takes the asyncpg pool."""

from __future__ import annotations

from typing import Any, Protocol

from eventsource.migration.repositories.audit import AuditEntry, PostgreSQLAuditLogRepository
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository


class Executor(Protocol):
    """What an asyncpg pool and an asyncpg connection have in common."""

    async def fetch(self, query: str, *args: object) -> list[Any]: ...
    async def fetchrow(self, query: str, *args: object) -> Any: ...
    async def fetchval(self, query: str, *args: object) -> Any: ...
    async def execute(self, query: str, *args: object) -> str: ...


__all__ = [
    "AuditEntry",
    "Executor",
    "PostgreSQLAuditLogRepository",
    "PostgreSQLMigrationRepository",
    "PostgreSQLPositionMappingRepository",
    "PostgreSQLRoutingRepository",
]
