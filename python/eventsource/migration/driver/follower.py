"""Following ways back: keeping what a tenant could return to current.

Nothing depends on it: a return catches up in any case, and the tenant's writers never wait for it.
So it holds no place, and ways back are taken one after the other. The only one that is due keeps
its connections for some looks: to open them for each costs the servers more than what is carried.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from eventsource.connections import brief, in_a_sentence
from eventsource.errors import EventSourceError
from eventsource.migration.connections.driver_connections import DriverConnections, Endpoints
from eventsource.migration.errors import LeaseLostError, StoreGoneBackError
from eventsource.migration.failures import PASSING, first_of, may_pass
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.states import MigrationState
from eventsource.migration.steps import authority, way_back
from eventsource.migration.tables import fences, identities
from eventsource.migration.tables.snapshots import not_shown_by
from eventsource.said import Said

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.ways_back import WayBack
    from eventsource.migration.steps.passes import Passes
    from eventsource.migration.tables.progress import CopyProgress

_log = logging.getLogger("eventsource.migration.driver")

#: After so long without a sign another process may follow (seconds); its chunks then fail.
HELD_SECONDS = 60.0

#: The same for its end (seconds). Each step of that may be repeated, also by two at once.
CLOSING_SECONDS = 5.0

#: How often ways back are looked at while there is something to carry, and at least (seconds).
FOLLOW_SECONDS, LONGEST_FOLLOW_SECONDS = 0.25, 5.0

#: How long the only one that is due is followed at a stretch, and without anything to carry
#: (seconds). Those who repair or close it wait for the end of that.
STAY_SECONDS, QUIET_SECONDS = 5.0, 1.0

#: How many new events are counted for the lag; more are many.
COUNTED = 100_000

_FAILURES = (EventSourceError, asyncpg.PostgresError, *PASSING)


@dataclass(slots=True)
class Follower:
    """Follows the ways back of the stores that this process knows.

    Args:
        migrations: the journal.
        tables: source and target of a migration over the stores' own pools.
        endpoints: where its databases are, for connections of its own.
        knows: whether this process has both stores.
        leaves: whether a way back is for a newer version.
    """

    migrations: PostgreSQLMigrationRepository
    tables: Callable[[Migration], Awaitable[tuple[AnyTable, AnyTable]]]
    endpoints: Callable[[Migration], Awaitable[Endpoints]]
    knows: Callable[[Migration], bool]
    leaves: Callable[[WayBack], bool]
    ways: WaysBack = field(init=False)
    said: Said = field(default_factory=lambda: Said(_log))

    def __post_init__(self) -> None:
        self.ways = WaysBack(self.migrations.pool)

    async def again_and_again(self) -> None:
        """Follow for as long as this process works; ended by cancelling it."""
        idle = FOLLOW_SECONDS
        while True:
            try:
                carried = await self.turn(stay=STAY_SECONDS)
                self.said.over("all")
            except Exception as error:
                if not may_pass(error):
                    self.said.warn("all", f"cannot follow ways back: {in_a_sentence(error)}")
                carried = 0
            idle = FOLLOW_SECONDS if carried else min(idle * 1.5, LONGEST_FOLLOW_SECONDS)
            await asyncio.sleep(idle)

    async def turn(self, *, stay: float = 0.0) -> int:
        """Look at every way back that is due; how many had something to carry.

        Args:
            stay: how long to go on with one that is the only one (seconds).
        """
        if not (ways := await self.ways.due()):
            return 0
        found = await self.migrations.get_many([way.migration_id for way in ways])
        moves = {move.id: move for move in found}
        due = [(way, moves[way.migration_id]) for way in ways]
        ours = [(way, move) for way, move in due if self.knows(move) and not self.leaves(way)]
        carried = 0
        for way, move in ours:
            carried += await self._one(way, move, stay if len(ours) == 1 else 0.0)
        return carried

    async def _one(self, way: WayBack, move: Migration, stay: float) -> int:
        owner = uuid4()
        held = CLOSING_SECONDS if way.state == "closing" else HELD_SECONDS
        if not await self.ways.follow(way.id, owner, held, [way.state]):
            return 0
        try:
            if way.state == "closing":
                await self.close(way, move)
                self.said.over(way.id)
                return 0
            if way.is_over:
                await self.refuse_gone_back(way)
                await self.ways.end(way.id, "its time is over", now=False)
                return 0
            carried = await self._follow(way, move, owner, stay)
            self.said.over(way.id)
            return carried
        except asyncio.CancelledError:
            # Those who repair, return or close next do not wait for a process that has ended.
            with contextlib.suppress(*_FAILURES):
                await self.ways.leave(way.id, owner, way.reason)
            raise
        except _FAILURES as error:
            # The tenant does not notice: who looks at the way back reads it. Who returns by it or
            # ends it has ended our sessions, and is not to read of that.
            if await self.ways.leave(way.id, owner, in_a_sentence(error) or type(error).__name__):
                why = f"way back of migration {move.id} is not followed: {brief(error)}"
                self.said.warn(way.id, why, {"migration_id": move.id})
            return 0

    async def _follow(self, way: WayBack, move: Migration, owner: UUID, stay: float) -> int:
        home = (await self.tables(move))[1]
        at = await self.refuse_gone_back(way)
        if at is None:
            raise way_back.lost(way)
        if not await _count(home, at):
            await self.ways.followed(way.id, owner, at.rows_copied, 0)
            return 0
        connections = await DriverConnections.open(reversed_(await self.endpoints(move)), way.id)
        ended_well = False
        try:
            opposite = way_back.opposite(move, way.id, owner)
            passes = await way_back.passes(connections, opposite, owner)
            try:
                await self._held(way.id, owner, self._carry(passes, way, owner, stay))
            finally:
                await passes.session.close()
            ended_well = True
        finally:
            await connections.close(keep=ended_well)
        return 1

    async def _carry(self, passes: Passes, way: WayBack, owner: UUID, stay: float) -> None:
        """Pass after pass, until there is nothing to carry, the stay is over or it is not ours.

        A look is one pass: what comes meanwhile is carried by the next. A pass costs little more
        for many events than for few.
        """
        began = carried_at = time.monotonic()
        lag = 1
        while True:
            if lag:
                await passes.catch_up()
                carried_at = time.monotonic()
            now = time.monotonic()
            if now - began >= stay or now - carried_at >= QUIET_SECONDS:
                break
            await asyncio.sleep(FOLLOW_SECONDS)
            lag = await _count(passes.connections.source, passes.at)
            if not await self.ways.stay(way.id, owner, HELD_SECONDS, passes.at.rows_copied, lag):
                # Somebody returns, closes or repairs it.
                return
        lag = await _count(passes.connections.source, passes.at)
        await self.ways.followed(way.id, owner, passes.at.rows_copied, lag)

    async def _held(self, way_id: UUID, owner: UUID, carrying: Awaitable[None]) -> None:
        """For as long as it takes: nobody else begins beside it meanwhile.

        Raises:
            LeaseLostError: another process follows it all the same.
        """

        async def hold() -> None:
            while True:
                await asyncio.sleep(HELD_SECONDS / 3)
                # A control database that is away for a moment takes the claim from nobody.
                with contextlib.suppress(*PASSING, asyncpg.PostgresError):
                    if not await self.ways.hold(way_id, owner, HELD_SECONDS):
                        raise LeaseLostError(f"another process follows way back {way_id}")

        try:
            async with asyncio.TaskGroup() as group:
                holding = group.create_task(hold())
                await carrying
                holding.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None

    async def refuse_gone_back(self, way: WayBack, *, returns: bool = False) -> CopyProgress | None:
        """Its progress, None where there is none; before it is followed, ended or returned by.

        Raises:
            StoreGoneBackError: its home has gone back, and has to be brought in line first; for who
                ``returns``, too, that it has ended already, which the control database has
                forgotten.
            StoreMismatchError: a store is another place here.
        """
        move = await self.migrations.get(way.migration_id)
        old, home = await self.tables(move)
        await identities.check(move, old, home)
        await self._remind(old, way, move)
        at = await way_back.refuse_gone_back(old, home, way)
        if returns:
            await way_back.refuse_ended(old, way)
        return at

    async def _remind(self, old: AnyTable, way: WayBack, move: Migration) -> None:
        """Before anything is carried to a store that would take the tenant's events itself.

        Raises:
            StoreGoneBackError: it had forgotten that the tenant has left, and says so again.
        """
        left = await fences.read(old, way.tenant_id)
        if way.moved_state != MigrationState.MIGRATED or (
            left is not None and left.generation >= way.generation
        ):
            return
        connections = await DriverConnections.open(await self.endpoints(move), way.id)
        try:
            said = await authority.remind(
                connections.source, connections.target, move, self.migrations
            )
        finally:
            await connections.close()
        if said is not None:
            raise StoreGoneBackError(said)

    async def close(self, way: WayBack, move: Migration) -> None:
        """Remove what an ended way back has at the stores.

        Raises:
            StoreGoneBackError: its home has gone back, and has to be brought in line first.
        """
        connections = await DriverConnections.open(await self.endpoints(move), way.id)
        try:
            await identities.check(move, connections.source, connections.target)
            await self._remind(connections.source, way, move)
            await way_back.refuse_gone_back(connections.source, connections.target, way)
            await way_back.dismantle(connections, way)
        finally:
            await connections.close()
        refused = way.moved_state != "migrated" or way.kept_until is None
        await self.ways.change(way.id, ["closing"], "refused" if refused else "closed")


def reversed_(endpoints: Endpoints) -> Endpoints:
    """The same databases, in the other direction."""
    return Endpoints(
        endpoints.control, endpoints.control_schema, endpoints.target, endpoints.source,
        kept=endpoints.kept,
    )  # fmt: skip


async def _count(home: AnyTable, at: CopyProgress) -> int:
    """How many events the store that would be returned to does not hold yet, up to a bound."""
    assert at.proven_snapshot is not None
    return int(
        await home.connection.fetchval(
            f"select count(*) from (select from {home.name} where"
            f" {not_shown_by(at.proven_snapshot)} limit $2) as found",
            at.tenant_id, COUNTED,
        )
    )  # fmt: skip
