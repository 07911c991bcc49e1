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

A migration may keep its offset in place of rows (``position_mapping = "offset"``). Its checkpoints
translate the same way, since nothing else is asked of it. What a return goes back over then is that
move the other way round: at its carried positions a checkpoint keeps its distance, and above them
the rows of the return decide. The answer may be another than that from rows, by positions that no
event of the tenant has. Events are counted in the store that the migration leads to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from eventsource.migration.errors import PositionMappingError
from eventsource.migration.models import BEFORE_EVERY_POSITION, LAST_POSITION, MappedPosition
from eventsource.migration.states import MigrationState
from eventsource.migration.subscriptions import held
from eventsource.stores.postgresql import PostgreSQLEventStore

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.stores.interface import EventStore


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


@dataclass(frozen=True, slots=True)
class _Carried:
    """The events of a move that keeps its offset, as the migration that is asked about sees them.

    The tenant's source positions in (``after``, ``last``] lie ``shift`` higher at the target.
    """

    after: int
    last: int
    shift: int


class PositionMapper:
    """Translates positions of a migration's source into positions of its target.

    Args:
        position_mapping_repo: where the mapping is kept.
        stores: by id; asked how many events lie between two positions where a migration keeps its
            offset and no row for each event. A plan of subscriptions asks that.
    """

    def __init__(
        self,
        position_mapping_repo: PositionMappingRepository,
        stores: Mapping[str, EventStore] | None = None,
    ) -> None:
        self.repository = position_mapping_repo
        self._stores = stores or {}

    def is_of_layout(self, migration: Migration) -> bool:
        """Whether it moves rows of another library's tables, as far as the stores are known."""
        store = self._stores.get(migration.source_store_id)
        return getattr(store, "layout", None) is not None

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
        return await self._count(migration, after, up_to)

    async def count_repeated(self, migration: Migration, handled: int, target: int) -> int:
        """Events handled at the source up to ``handled`` that lie above ``target`` at the target.

        That is how many a reader of the target gets again from there.
        """
        if migration.position_offset is not None:
            return await self.count_between(migration, target - migration.position_offset, handled)
        return await self._count(migration, BEFORE_EVERY_POSITION, handled, target)

    async def _count(
        self,
        migration: Migration,
        after: int,
        up_to: int,
        target_after: int = BEFORE_EVERY_POSITION,
    ) -> int:
        mapped = 0
        if migration.maps_rows:
            mapped = await self._mapping(migration).count(
                migration.id, after=after, up_to=up_to, target_after=target_after
            )
        carried = await self._without_rows(migration)
        if carried is None:
            return mapped
        lowest = max(after, carried.after, target_after - carried.shift)
        highest = min(up_to, carried.last)
        if lowest >= highest:
            return mapped
        store = self._stores.get(migration.target_store_id)
        if not isinstance(store, PostgreSQLEventStore):
            raise PositionMappingError(
                f"migration {migration.id} keeps an offset and no row for each event, so events are"
                f" counted in store {migration.target_store_id!r}, which is not known here: give"
                " PositionMapper its stores"
            )
        return mapped + await held.count(
            store, migration.tenant_id, lowest + carried.shift, highest + carried.shift
        )

    async def _without_rows(self, migration: Migration) -> _Carried | None:
        """What the migration, or the move that it goes back over, has carried without rows."""
        move, is_inverted = migration, False
        while move.returns is not None:
            move, is_inverted = await self.repository.migration(move.returns), not is_inverted
        offset = move.position_offset
        if move.maps_rows or offset is None:
            return None
        last = LAST_POSITION - offset if move.fence_position is None else move.fence_position
        if is_inverted:
            return _Carried(offset, last + offset, -offset)
        return _Carried(0, last, offset)

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
        carried = await self._without_rows(migration)
        if carried is not None and source_position < carried.last:
            at_least = max(source_position, carried.after) + carried.shift
            return at_least if lowest is None else min(at_least, lowest - 1)
        if lowest is not None:
            return lowest - 1
        highest = await mapping.highest_target(migration.id)
        if carried is not None:
            end = carried.last + carried.shift
            return end if highest is None else max(end, highest)
        if highest is None:
            raise PositionMappingError(
                f"migration {migration.id} has mapped no event of tenant {migration.tenant_id} "
                "yet and has no offset: there is nothing to translate a position with"
            )
        return highest
