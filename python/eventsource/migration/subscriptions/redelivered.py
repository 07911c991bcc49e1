"""How many events subscriptions have got twice because of a move, as their checkpoints say.

A plan foretells it. Afterwards it is the number of events that the checkpoints of both stores
cover: those up to where the subscription has read the source, and from where it began at the target
up to where it is there now. What one reader delivers again by itself, after a crash in a batch, no
checkpoint shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.errors import EventSourceError
from eventsource.migration.models import LAST_POSITION
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.audit import AuditEntry
    from eventsource.migration.subscriptions.positions import PositionMapper
    from eventsource.subscriptions.checkpoints import CheckpointRepository

#: Entries of the audit log of a tenant's subscriptions.
CARRIED_OVER = "subscriptions_migrated"

#: How long the checkpoints of one subscription are waited for (seconds).
ASKED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Redelivered:
    """What a subscription that was carried over gets twice.

    Attributes:
        predicted: how many events, as foretold when it was carried over.
        so_far: how many it has got twice by now; None where that is not known.
        left: how many it is still going to get twice, if its readers go on as foretold.
        unknown: why it is not known.
    """

    subscription: str
    predicted: int
    so_far: int | None = None
    left: int | None = None
    unknown: str | None = None


class Redelivery:
    """Of one move.

    Args:
        following: the tenant's later finished moves, oldest first. They replace checkpoints.
        next_log: the audit log of the first of them: it says how far the target was read.
    """

    def __init__(
        self,
        mapper: PositionMapper,
        checkpoints: CheckpointRepository,
        migration: Migration,
        following: Sequence[Migration],
        next_log: Iterable[AuditEntry],
    ) -> None:
        self._mapper = mapper
        self._checkpoints = checkpoints
        self._migration = migration
        self._following = following
        self._read_at_the_end = {
            name: each["source_position"] for name, each in _first_of_each(next_log).items()
        }

    async def of(self, log: Iterable[AuditEntry]) -> list[Redelivered]:
        """Each subscription that the migration's log names, as it was carried over first."""
        return [await self._of(name, each) for name, each in _first_of_each(log).items()]

    async def _of(self, name: str, began: dict[str, Any]) -> Redelivered:
        predicted = began["redelivered_events"]
        if "read_with_all" not in began:
            return Redelivered(name, predicted, unknown="an earlier version has carried it over")
        try:
            async with asyncio.timeout(ASKED_SECONDS):
                return await self._counted(name, began)
        except (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            reason = f"its checkpoints cannot be read ({type(error).__name__})"
            return Redelivered(name, predicted, unknown=reason)

    async def _counted(self, name: str, began: dict[str, Any]) -> Redelivered:
        migration, predicted = self._migration, began["redelivered_events"]
        target, tenant_id = migration.target_store_id, as_uuid(migration.tenant_id)
        reached = self._read_at_the_end.get(name)
        if reached is None:
            if any(later.target_store_id == target for later in self._following):
                reason = f"its checkpoint in {target!r} is of a later stay of the tenant"
                return Redelivered(name, predicted, unknown=reason)
            reached = await self._position(name, target, tenant_id)
        handled = await self._handled(name, began)
        so_far, left = await self._twice(handled, began["target_position"], reached)
        if began["read_with_all"]:
            # It goes on at the source, and has what it lags there once more at the target.
            left += await self._mapper.count_between(migration, handled, LAST_POSITION)
        # A reader of all tenants of the target that was there, or has begun since.
        stood, stands = began["target_read_with_all"], await self._position(name, target, None)
        if stood is not None or stands:
            more = await self._twice(LAST_POSITION, stood or 0, stands)
            so_far, left = so_far + more[0], left + more[1]
        return Redelivered(name, predicted, so_far, left)

    async def _handled(self, name: str, began: dict[str, Any]) -> int:
        """Up to where it has read the source."""
        migration = self._migration
        recorded: int = began["source_position"]
        if began["read_with_all"]:
            now = await self._position(name, migration.source_store_id, None)
        elif any(later.target_store_id == migration.source_store_id for later in self._following):
            # Its own checkpoint there is that of the return.
            now = recorded
        else:
            now = await self._position(
                name, migration.source_store_id, as_uuid(migration.tenant_id)
            )
        return max(recorded, now)

    async def _twice(self, handled: int, began: int, reached: int) -> tuple[int, int]:
        """Events handled at the source that the target has given again, and those to come."""
        after = await self._mapper.count_repeated(self._migration, handled, began)
        to_come = await self._mapper.count_repeated(self._migration, handled, max(began, reached))
        return after - to_come, to_come

    async def _position(self, name: str, store_id: str, tenant_id: Any) -> int:
        found = await self._checkpoints.get(name, store_id, tenant_id)
        return found.position if found is not None else 0


def _first_of_each(log: Iterable[AuditEntry]) -> dict[str, dict[str, Any]]:
    """How each subscription was carried over the first time that this went well."""
    found: dict[str, dict[str, Any]] = {}
    for entry in log:
        if entry.event_type == CARRIED_OVER:
            for each in entry.details["subscriptions"]:
                if each["error"] is None:
                    found.setdefault(each["name"], each)
    return found
