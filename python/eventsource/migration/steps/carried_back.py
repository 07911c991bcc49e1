"""What a way back had carried, when the tenant's home has gone back to before it was opened.

The move's own passes bring what the source had when the tenant left. What was appended at its home
since is at the source too, at other positions: it goes home to those that it had there. Carried by
the passes it would get positions of the source, below what readers have passed, and the way back
would carry it a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.counts import counted
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.errors import ConsistencyError
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.steps import put_back
from eventsource.migration.steps.standing_again import StandingAgain
from eventsource.migration.tables import fences, progress, standby
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration
    from eventsource.migration.steps.decision import Decision

#: Events that are looked for at once.
PORTION = 20_000


@dataclass(frozen=True, slots=True)
class CarriedBack:
    """The tenant's events at the source above where the decision says that it ended."""

    connections: DriverConnections
    migration: Migration
    owner: UUID
    decided: Decision

    async def bound(self) -> str | None:
        """A snapshot of the source that shows none of them; None when there are none.

        They were written after the decision, and everything else of the tenant before it.
        """
        source = self.connections.source
        if not await standby.ways_to(source, self.migration.tenant_id):
            return None
        first = await source.connection.fetchval(
            f"select min(transaction_id::text::numeric)::text from {source.name}"
            " where tenant_id = $1 and global_position > $2",
            as_uuid(self.migration.tenant_id), self.decided.source_head,
            timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        return f"{first}:{first}:" if first is not None else None

    async def go_home(self) -> None:
        """Put them into the closed target, and let an open way back stand again; twice is once.

        Raises:
            ConsistencyError: one of them has no place there.
        """
        source, target = self.connections.source, self.connections.target
        ways = await standby.ways_to(source, self.migration.tenant_id)
        mapping = PostgreSQLPositionMappingRepository(self.connections.control)

        async def recorded(some: Sequence[UUID]) -> dict[UUID, int]:
            return await mapping.sources_of(ways, some)

        async def all_of_them(some: Sequence[UUID]) -> Sequence[UUID]:
            return some

        missing = await self._missing() if ways else []
        there = await put_back.put_back(source, target, missing, recorded, all_of_them)
        if len(there) != len(missing):
            lost = [str(each) for each in missing if each not in there]
            raise ConsistencyError(
                f"the source holds {counted(len(lost), 'event')} of tenant"
                f" {self.migration.tenant_id} that its way back had carried and that have no place"
                f" at the target: {', '.join(lost[:5])}; nothing is opened"
            )
        for way_id in ways:
            await self._stand_again(mapping, way_id)

    async def _missing(self) -> list[UUID]:
        source, target = self.connections.source, self.connections.target
        found: list[UUID] = []
        position = self.decided.source_head
        while True:
            rows = await source.connection.fetch(
                f"select global_position, event_id from {source.name} where tenant_id = $1"
                " and global_position > $2 order by global_position limit $3",
                as_uuid(self.migration.tenant_id), position, PORTION,
            )  # fmt: skip
            if not rows:
                return found
            position = rows[-1]["global_position"]
            ids = [row["event_id"] for row in rows]
            there = await target.connection.fetch(
                f"select event_id from {target.name} where event_id = any ($1::uuid[])", ids
            )
            known = {row["event_id"] for row in there}
            found += [each for each in ids if each not in known]

    async def _stand_again(
        self, mapping: PostgreSQLPositionMappingRepository, way_id: UUID
    ) -> None:
        source, target = self.connections.source, self.connections.target
        standing = await fences.of_migration(source, way_id, "target")
        if standing is None or standing.state != standby.STANDBY:
            return
        at = await progress.claim(source, way_id, self.owner)
        if at is None:
            return
        # Its fence is woken by the opening.
        again = StandingAgain(
            target, self.migration.target_store_id, source, mapping, self.migration.id, at,
            self.decided.source_head, None,
        )  # fmt: skip
        await again.run()
