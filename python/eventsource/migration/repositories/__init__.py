"""Repositories over the control tables; each takes the asyncpg pool."""

from __future__ import annotations

from eventsource.connections import Executor
from eventsource.migration.repositories.audit import AuditEntry, PostgreSQLAuditLogRepository
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository

__all__ = [
    "AuditEntry",
    "Executor",
    "PostgreSQLAuditLogRepository",
    "PostgreSQLMigrationRepository",
    "PostgreSQLPositionMappingRepository",
    "PostgreSQLRoutingRepository",
]
