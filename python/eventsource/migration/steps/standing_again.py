"""A way back goes on from what both stores hold, after the tenant's home has gone back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventsource.connections import transaction
from eventsource.migration.connections.session_marks import MIGRATOR_SETTING
from eventsource.migration.consistency import both_sides
from eventsource.migration.errors import MigrationError
from eventsource.migration.tables import (
    brief_locks,
    fences,
    guard,
    reconciled,
    snapshots,
    standby,
    witnesses,
)
from eventsource.migration.tables.witnesses import Witness

if TYPE_CHECKING:
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
    from eventsource.migration.tables.progress import CopyProgress

#: Rows that are taken out at once.
PORTION = 10_000


@dataclass(frozen=True, slots=True)
class StandingAgain:
    """Lets the way back of a move stand again. Only for who has claimed its progress row.

    Args:
        home, home_id: where the tenant lives.
        old: the store that it would return to.
        at: the progress of the way back there, as claimed.
        above: where the old store's own events end.
        generation: of the fence at home; None leaves that asleep, until home is opened.
    """

    home: OwnTable
    home_id: str
    old: OwnTable
    mapping: PostgreSQLPositionMappingRepository
    move: UUID
    at: CopyProgress
    above: int
    generation: int | None

    async def run(self, spoiled: Sequence[int] = ()) -> None:
        """A new snapshot first, and then whatever both sides hold as of it.

        Args:
            spoiled: positions in the old store of events that its home had lost: they are carried
                again, if they are there again.
        """
        way_id = self.at.migration_id
        await self._guard()
        taken = await snapshots.take(self.home.connection)
        number = max(self.at.pass_number, await witnesses.highest(self.home, way_id)) + 1
        witness = Witness(number, uuid4())
        await witnesses.stand(self.home, way_id, witness, None, taken.system)
        gone = {*spoiled, *await self._differing(taken.text)}
        shown = await self._held_by_both(taken.text, gone)
        await self._remove(sorted(gone))
        now = await snapshots.source_of(self.home.connection)
        await reconciled.go_on_from(self.old, self.at, witness, shown, self.at.proven_rows, now)

    async def _guard(self) -> None:
        """From before the first snapshot every append at home is guarded."""
        way_id = self.at.migration_id
        standing = await fences.of_migration(self.old, way_id, "target")
        if standing is None:
            raise MigrationError(f"the old store has no fence of the way back {way_id} any more")
        await standby.add_fence(
            self.home, tenant_id=self.at.tenant_id, migration_id=way_id, store_id=self.home_id,
            role="source", patience_ms=standing.patience_ms,
        )  # fmt: skip
        if self.generation is not None:
            await standby.wake(self.home, way_id, "source", self.generation)

        async def renewed() -> None:
            await guard.renew(self.home)

        await brief_locks.transact(
            self.home.connection, renewed, what=f"for a lock on {self.home.name}"
        )

    async def _differing(self, snapshot: str) -> list[int]:
        """Positions of events that were carried and are not at home, or not as they are here."""
        found: list[int] = []
        columns, position = self.at.columns or [], self.above
        while rows := await both_sides.portion(
            self.old, columns, self.at.tenant_id, position, None
        ):
            position = rows[-1]["global_position"]
            ids = [row["event_id"] for row in rows]
            there = await both_sides.of_events(self.home, columns, ids, snapshot)
            known = {(row["event_id"], row["digest"]) for row in there}
            found += [
                row["global_position"]
                for row in rows
                if (row["event_id"], row["digest"]) not in known
            ]
        return found

    async def _held_by_both(self, snapshot: str, gone: set[int]) -> str:
        """A snapshot that shows nothing which the old store lacks."""
        columns, position = self.at.columns or [], 0
        lowest: int | None = None
        while rows := await both_sides.portion(
            self.home, columns, self.at.tenant_id, position, None, snapshot
        ):
            position = rows[-1]["global_position"]
            ids = [row["event_id"] for row in rows]
            here = await both_sides.of_events(self.old, columns, ids, None)
            held = {row["event_id"] for row in here if row["global_position"] not in gone}
            oldest, undated = await both_sides.oldest(
                self.home, [each for each in ids if each not in held]
            )
            if undated:
                raise MigrationError(
                    "the old store lacks events that are older than every transaction id: close"
                    f" the way back (`eventsource-migrate way-back close {self.move}`)"
                )
            if oldest is not None:
                lowest = oldest if lowest is None else min(lowest, oldest)
        return snapshot if lowest is None else snapshots.below(snapshot, lowest)

    async def _remove(self, positions: Sequence[int]) -> None:
        """Take rows out of the old store, where nobody has seen them, with their mapping."""
        way_id = self.at.migration_id
        for first in range(0, len(positions), PORTION):
            some = list(positions[first : first + PORTION])
            await self.mapping.remove(way_id, some)
            async with transaction(self.old.connection) as connection:
                # The guard there is that of a tenant which has left.
                await connection.execute(
                    "select set_config($1, $2, true)", MIGRATOR_SETTING, str(self.move)
                )
                held = await connection.fetchval(
                    f"select fence_id from {self.old.fences} where migration_id = $1"
                    " and role = 'target' and state = 'standby' for share",
                    way_id,
                )
                if held is None:
                    raise MigrationError("the way back was closed meanwhile; nothing is removed")
                await connection.execute(
                    f"delete from {self.old.name} where tenant_id = $1"
                    " and global_position = any ($2::bigint[]) and global_position > $3",
                    self.at.tenant_id, some, self.above,
                )  # fmt: skip
