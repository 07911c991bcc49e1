"""A position mapping held in a dict, with the answers the SQL gives, for tests of translation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from eventsource.migration.errors import MigrationNotFoundError
from eventsource.migration.models import (
    BEFORE_EVERY_POSITION,
    LAST_POSITION,
    MappedPosition,
    Migration,
    MigrationConfig,
)
from eventsource.migration.states import MigrationState


def migration_record(
    *,
    state: MigrationState = MigrationState.MIGRATED,
    position_offset: int | None = None,
    fence_position: int | None = None,
    completed_at: datetime | None = None,
) -> Migration:
    """A migration of which only what concerns positions is filled in."""
    known: dict[str, Any] = {
        "id": uuid4(),
        "tenant_id": uuid4(),
        "source_store_id": "shared",
        "target_store_id": "dedicated",
        "state": state,
        "position_offset": position_offset,
        "fence_position": fence_position,
        "completed_at": completed_at,
        "config": MigrationConfig(),
    }
    unknown: dict[str, Any] = dict.fromkeys(
        field.name for field in fields(Migration) if field.default is MISSING
    )
    return Migration(**unknown | known)


class MappingInMemory:
    def __init__(self, migration: Migration, mapping: Mapping[int, int]) -> None:
        self.record = migration
        self.mapping = dict(sorted(mapping.items()))
        self.audited: list[tuple[str, dict[str, object], str | None]] = []

    async def migration(self, migration_id: UUID) -> Migration:
        if migration_id != self.record.id:
            raise MigrationNotFoundError(migration_id)
        return self.record

    async def next_after(self, migration_id: UUID, source_position: int) -> MappedPosition | None:
        for source, target in self.mapping.items():
            if source > source_position:
                return MappedPosition(source, target, uuid4())
        return None

    async def lowest_target_after(self, migration_id: UUID, source_position: int) -> int | None:
        above = [target for source, target in self.mapping.items() if source > source_position]
        return min(above, default=None)

    async def highest_target(self, migration_id: UUID) -> int | None:
        return max(self.mapping.values(), default=None)

    async def count(
        self,
        migration_id: UUID,
        *,
        after: int = BEFORE_EVERY_POSITION,
        up_to: int = LAST_POSITION,
        target_after: int = BEFORE_EVERY_POSITION,
    ) -> int:
        return sum(
            after < source <= up_to and target > target_after
            for source, target in self.mapping.items()
        )

    def through_returns(self) -> MappingInMemory:
        return self

    async def audit(
        self,
        migration_id: UUID,
        event_type: str,
        details: dict[str, object],
        operator: str | None,
    ) -> None:
        self.audited.append((event_type, details, operator))
