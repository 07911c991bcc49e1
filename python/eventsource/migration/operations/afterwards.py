"""What came after a move: what routers and subscriptions have seen, its way back, clean-ups."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.migration.repositories.audit import PostgreSQLAuditLogRepository
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.repositories.router_reports import RouterReports
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.states import MigrationState
from eventsource.migration.subscriptions.positions import PositionMapper
from eventsource.migration.subscriptions.redelivered import Redelivery

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.audit import AuditEntry
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.stores.interface import EventStore
    from eventsource.subscriptions.checkpoints import CheckpointRepository


async def of(
    migrations: PostgreSQLMigrationRepository, migration: Migration, log: Sequence[AuditEntry]
) -> dict[str, Any]:
    """As parts of a report's document."""
    return {
        "way_back": await _way_back(migrations, migration, log),
        "there_and_back": await _there_and_back(migrations, migration),
        "cleanups": [
            {"at": utc(entry.created_at), "by": entry.operator, **entry.details}
            for entry in log
            if entry.event_type == "cleaned_up"
        ],
    }


async def longest_append(
    migrations: PostgreSQLMigrationRepository, migration_id: UUID
) -> dict[str, Any]:
    """What those that append have measured at the cutover, from call to answer."""
    reports = await RouterReports(migrations.pool).of_migration(migration_id)
    measured = {
        each.longest_append_ms: each.router
        for each in reports
        if each.longest_append_ms is not None
    }
    longest = max(measured, default=None)
    return {
        "longest_append_ms": None if longest is None else round(longest, 3),
        "longest_append_by": None if longest is None else measured[longest],
        "routers_that_measured": sum(each.longest_append_ms is not None for each in reports),
    }


async def redelivery(
    migrations: PostgreSQLMigrationRepository,
    migration: Migration,
    log: Sequence[AuditEntry],
    checkpoints: CheckpointRepository | None,
    stores: Mapping[str, EventStore],
) -> list[dict[str, Any]]:
    """What was foretold to subscriptions, beside what their checkpoints say now."""
    if checkpoints is None:
        return []
    moves = [
        each
        for each in await migrations.get_by_tenant(migration.tenant_id)
        if each.state is MigrationState.MIGRATED
    ]
    following = [each for each in moves if each.created_at > migration.created_at]
    audit = PostgreSQLAuditLogRepository(migrations.pool)
    next_log = await audit.get_by_migration(following[0].id) if following else []
    mapper = PositionMapper(PostgreSQLPositionMappingRepository(migrations.pool), stores)
    counted = Redelivery(mapper, checkpoints, migration, following, next_log)
    return [asdict(each) for each in await counted.of(log)]


async def _way_back(
    migrations: PostgreSQLMigrationRepository, migration: Migration, log: Sequence[AuditEntry]
) -> dict[str, Any] | None:
    way = None
    with contextlib.suppress(asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        way = await WaysBack(migrations.pool).of_migration(migration.id)
    if way is None:
        # A cutover that could make none has said why.
        none = next((e for e in reversed(log) if e.event_type == "way_back:none"), None)
        return None if none is None else {"state": "none", "reason": none.details.get("reason")}
    return {
        "id": str(way.id),
        "state": way.shown,
        "reason": way.reason,
        "back_to": way.target_store_id,
        "kept_until": utc(way.kept_until),
        "carried": way.carried,
        "lag": way.lag,
        "followed_at": utc(way.followed_at),
    }


async def _there_and_back(
    migrations: PostgreSQLMigrationRepository, migration: Migration
) -> list[dict[str, Any]]:
    """The move and its returns, in their order; empty where nobody has returned."""
    known = {each.id: each for each in await migrations.get_by_tenant(migration.tenant_id)}
    first = migration
    while first.returns is not None and first.returns in known:
        first = known[first.returns]
    chain = [first]
    while True:
        following = [e for e in known.values() if e.returns == chain[-1].id]
        if not following:
            break
        chain.append(following[-1])
    if len(chain) < 2:
        return []
    return [
        {
            "id": str(each.id),
            "from": each.source_store_id,
            "to": each.target_store_id,
            "state": each.state.value,
            "ended_at": utc(each.completed_at),
            "fence_held_ms": each.cutover_pause_ms,
            "longest_append_ms": (await longest_append(migrations, each.id))["longest_append_ms"],
        }
        for each in chain
    ]


def utc(at: datetime | None) -> str | None:
    """A time as a report has it."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds")
