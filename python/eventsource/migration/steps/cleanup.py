"""Removing what a tenant has left behind in a store: proven first, then in portions.

Nothing is deleted of which the store where the tenant lives now does not hold the same event. The
guard goes on refusing processes that never heard of the move: the fence row stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource import failpoints
from eventsource.migration.connections.session_marks import MIGRATOR_SETTING
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.connections.transactions import transaction
from eventsource.migration.consistency import by_event
from eventsource.migration.errors import ConsistencyError, MigrationError
from eventsource.migration.models import BEFORE_EVERY_POSITION
from eventsource.migration.tables import fences, standby

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.tables.fences import Fence

#: First key of the lock that one clean-up of a tenant holds; the second is the fence's id.
CLEANUP_LOCK_CLASS = 1163281240

#: Rows that are compared at once, and those that one transaction deletes.
COMPARED, PORTION = 5_000, 2_000

#: The least share of the time in which nothing is deleted, so that other tenants are not slowed.
REST = 0.5


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a tenant has left behind in a store: rows, and about how many bytes they take."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Cleanup:
    """The removal of a tenant's old rows.

    Args:
        old: the store that the tenant has left, over a connection of its own.
        home: the store where it lives now.
        old_id, home_id: their ids; their tables may have one name.
        columns: what a row consists of.
        offset: position at home minus old position of rows up to ``carried_to``; None where the
            rows were not carried from there to home.
        rate: rows per second; None is as fast as others are spared.
        seen: called with the number of rows compared or deleted so far.
    """

    old: OwnTable
    home: AnyTable
    old_id: str
    home_id: str
    tenant_id: UUID
    columns: Sequence[str]
    offset: int | None
    carried_to: int
    rate: float | None = None
    seen: Callable[[str, int], None] = lambda what, rows: None

    async def measure(self) -> Leftovers:
        """Count what is there; changes nothing."""
        row = await self.old.connection.fetchrow(
            "select count(*) as rows, coalesce(sum(pg_column_size(e.*)), 0)::bigint as bytes"
            f" from {self.old.name} e where tenant_id = $1",
            self.tenant_id, timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        assert row is not None
        return Leftovers(row["rows"], row["bytes"])

    async def compare(self) -> int:
        """Compare every old row with the tenant's home; returns how many there are.

        Raises:
            ConsistencyError: the first that home does not hold as it is here.
            MigrationError: the tenant has not left this store any more.
        """
        await self._in_force()
        rows = 0
        async for portion in self._portions(COMPARED):
            await self._prove(portion)
            rows += len(portion)
            self.seen("compared", rows)
        return rows

    async def delete(self) -> int:
        """Delete every old row, each compared once more right before; returns how many.

        Raises:
            ConsistencyError: as `compare`; what was deleted before stays so.
            MigrationError: the tenant has not left this store any more, or somebody else cleans up.
        """
        fence = await self._in_force()
        if await standby.stands_by(self.old, self.tenant_id):
            raise MigrationError(
                f"tenant {self.tenant_id} may still return to {self.old_id!r}; close its way back"
                " first"
            )
        await self._be_the_only_one(fence)
        await self.old.connection.execute(
            "select set_config($1, $2, false)", MIGRATOR_SETTING, str(fence.migration_id)
        )
        deleted = 0
        async for portion in self._portions(PORTION):
            began = time.monotonic()
            await self._prove(portion)
            deleted += await self._delete(fence, [row["global_position"] for row in portion])
            self.seen("deleted", deleted)
            await failpoints.reach("cleanup.portion.committed")
            spent = time.monotonic() - began
            least = len(portion) / self.rate if self.rate else 0.0
            await asyncio.sleep(max(spent * REST / (1 - REST), least - spent))
        await standby.forget_retired(self.old, self.tenant_id)
        return deleted

    async def _portions(self, size: int) -> AsyncIterator[list[Any]]:
        position = BEFORE_EVERY_POSITION
        while True:
            rows = await by_event.read(
                self.old, self.columns,
                "tenant_id = $1 and global_position > $2 order by global_position limit $3",
                self.tenant_id, position, size,
            )  # fmt: skip
            if not rows:
                return
            position = rows[-1]["global_position"]
            yield rows

    async def _prove(self, portion: Sequence[Any]) -> None:
        found = await by_event.read(
            self.home, self.columns, "tenant_id = $1 and event_id = any ($2::uuid[])",
            self.tenant_id, [row["event_id"] for row in portion],
        )  # fmt: skip
        there = {row["event_id"]: row for row in found}
        for row in portion:
            other = there.get(row["event_id"])
            wrong = self._difference(row, other)
            if wrong is not None:
                raise ConsistencyError(
                    f"event {row['event_id']} (position {row['global_position']}, version"
                    f" {row['version']} of stream {row['aggregate_type']} {row['aggregate_id']})"
                    f" of tenant {self.tenant_id} in store {self.old_id!r} {wrong} store"
                    f" {self.home_id!r}, where the tenant lives; nothing more was deleted. Find"
                    " out which of them is right before anything else"
                )

    def _difference(self, row: Any, other: Any | None) -> str | None:
        if other is None:
            return "is missing in"
        if row["digest"] != other["digest"]:
            return "is another one in"
        position = row["global_position"]
        if (
            self.offset is not None
            and position <= self.carried_to
            and other["global_position"] != position + self.offset
        ):
            return f"is at position {other['global_position']}, not {position + self.offset}, in"
        return None

    async def _delete(self, fence: Fence, positions: list[int]) -> int:
        """One portion, while the fence says that the tenant has moved from here."""
        async with transaction(self.old.connection):
            held = await self.old.connection.fetchval(
                f"select fence_id from {self.old.fences} where fence_id = $1"
                " and role = 'source' and state = 'moved' for share",
                fence.fence_id,
            )
            if held is None or await self._in_force() != fence:
                raise MigrationError(
                    f"the tenant {self.tenant_id} is coming back to {self.old_id!r}, or its fence"
                    " was changed by hand; nothing more is deleted"
                )
            tag = await self.old.connection.execute(
                f"delete from {self.old.name} where tenant_id = $1"
                " and global_position = any ($2::bigint[])",
                self.tenant_id, positions, timeout=LONG_STATEMENT_SECONDS,
            )  # fmt: skip
            # From now on the target cannot be repaired from here.
            await self.old.connection.execute(
                f"update {self.old.fences} set cleaned_at = now()"
                " where fence_id = $1 and cleaned_at is null",
                fence.fence_id,
            )
        return int(tag.rpartition(" ")[2])

    async def _in_force(self) -> Fence:
        fence = await fences.read(self.old, self.tenant_id)
        if fence is None or (fence.role, fence.state) != ("source", "moved"):
            raise MigrationError(
                f"store {self.old_id!r} does not say that tenant {self.tenant_id} has left it: its"
                f" fence is {fence.state if fence else 'missing'}; nothing is deleted. If the store"
                " was restored, run `eventsource-migrate repair`"
            )
        return fence

    async def _be_the_only_one(self, fence: Fence) -> None:
        if not await self.old.connection.fetchval(
            "select pg_try_advisory_lock($1, $2)", CLEANUP_LOCK_CLASS, fence.fence_id
        ):
            raise MigrationError(
                f"another clean-up of tenant {self.tenant_id} is at work in"
                f" {self.old_id!r}; wait for it, or end its session"
            )
