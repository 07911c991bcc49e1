"""Translating a checkpoint of the source into one of the target.

A source checkpoint ``c`` says that every tenant event at a source position up to ``c`` was handled.
The target checkpoint that says the same is the largest ``t`` with: every tenant event at a target
position up to ``t`` has a source position up to ``c``. One higher would skip an event, and with
anything lower nothing is gained.

* Carried positions (``target = source + offset``) give ``min(c, fence) + offset``. The fence is the
  source's head when the tenant left: what lies above it is other tenants' at the source, and the
  tenant's new events at the target. No tenant event lies between this and the largest ``t``.
* Any other mapping gives ``min{target(p) : p > c} - 1``, which for ``c`` below the first event is
  the position before the tenant's first; if no ``p`` is above ``c``, the last mapped position. So
  does that of a return, together with those of the moves that it goes back over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from eventsource.migration.errors import PositionMappingError
from eventsource.migration.models import BEFORE_EVERY_POSITION, LAST_POSITION, MappedPosition
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from eventsource.migration.models import Migration


_NEVER_MOVED = frozenset({MigrationState.ROLLED_BACK, MigrationState.FAILED})


class PositionMappingRepository(Protocol):
    """What the mapper asks; `PostgreSQLPositionMappingRepository` answers it."""

    async def migration(self, migration_id: UUID) -> Migration:
        """The migration, or MigrationNotFoundError."""
        ...

    async def next_after(self, migration_id: UUID, source_position: int) -> MappedPosition | None:
        """The first mapped event above a source position."""
        ...

    async def lowest_target_after(self, migration_id: UUID, source_position: int) -> int | None:
        """The lowest target position of all events above a source position."""
        ...

    async def highest_target(self, migration_id: UUID) -> int | None:
        """The highest target position of all mapped events."""
        ...

    async def count(
        self,
        migration_id: UUID,
        *,
        after: int = BEFORE_EVERY_POSITION,
        up_to: int = LAST_POSITION,
        target_after: int = BEFORE_EVERY_POSITION,
    ) -> int:
        """Mapped events with ``after`` < source position <= ``up_to`` and target position above
        ``target_after``."""
        ...

    def through_returns(self) -> PositionMappingRepository:
        """The same, for a return: with what the moves before it have mapped."""
        ...

    async def audit(
        self,
        migration_id: UUID,
        event_type: str,
        details: dict[str, object],
        operator: str | None,
    ) -> None:
        """Add a row to the migration's audit log."""
        ...


class PositionMapper:
    """Translates positions of a migration's source into positions of its target.

    Args:
        position_mapping_repo: where the mapping is kept.
    """

    def __init__(self, position_mapping_repo: PositionMappingRepository) -> None:
        self.repository = position_mapping_repo

    async def translate(self, migration_id: UUID, source_position: int) -> int:
        """The target checkpoint that stands for a source checkpoint.

        Before the cutover it is what the translation would be if the source ended here.

        Raises:
            MigrationNotFoundError: there is no such migration.
            PositionMappingError: the tenant has not moved and will not, or the mapping does not
                say where its events are.
        """
        migration = await self.repository.migration(migration_id)
        return await self.translate_within(migration, source_position)

    async def translate_within(self, migration: Migration, source_position: int) -> int:
        """`translate` for a migration that was read already."""
        if migration.state in _NEVER_MOVED:
            raise PositionMappingError(
                f"migration {migration.id} is {migration.state}: tenant {migration.tenant_id} "
                f"still lives in {migration.source_store_id!r} and no position there changes"
            )
        if migration.position_offset is not None:
            return await self._carried(migration, migration.position_offset, source_position)
        return await self._mapped(migration, source_position)

    def _mapping(self, migration: Migration) -> PositionMappingRepository:
        if migration.returns is None:
            return self.repository
        return self.repository.through_returns()

    async def count_between(self, migration: Migration, after: int, up_to: int) -> int:
        """The tenant's events at source positions in (``after``, ``up_to``]."""
        if after >= up_to:
            return 0
        return await self._mapping(migration).count(migration.id, after=after, up_to=up_to)

    async def count_repeated(self, migration: Migration, handled: int, target: int) -> int:
        """Events handled at the source up to ``handled`` that lie above ``target`` at the target.

        That is how many a reader of the target gets again from there.
        """
        if migration.position_offset is not None:
            return await self.count_between(migration, target - migration.position_offset, handled)
        mapping = self._mapping(migration)
        return await mapping.count(migration.id, up_to=handled, target_after=target)

    async def _carried(self, migration: Migration, offset: int, source_position: int) -> int:
        fence = migration.fence_position
        if fence is None and migration.state is MigrationState.MIGRATED:
            raise PositionMappingError(
                f"migration {migration.id} is migrated but its row has no fence_position: "
                "where the source ended is not known, so this position cannot be translated"
            )
        following = await self.repository.next_after(migration.id, source_position)
        if following is not None and following.target_position != (
            following.source_position + offset
        ):
            raise PositionMappingError(
                f"migration {migration.id} carries positions with offset {offset}, but event "
                f"{following.event_id} is mapped from {following.source_position} to "
                f"{following.target_position}: the mapping is damaged"
            )
        return (source_position if fence is None else min(source_position, fence)) + offset

    async def _mapped(self, migration: Migration, source_position: int) -> int:
        mapping = self._mapping(migration)
        lowest = await mapping.lowest_target_after(migration.id, source_position)
        if lowest is not None:
            return lowest - 1
        highest = await mapping.highest_target(migration.id)
        if highest is None:
            raise PositionMappingError(
                f"migration {migration.id} has mapped no event of tenant {migration.tenant_id} "
                "yet and has no offset: there is nothing to translate a position with"
            )
        return highest
