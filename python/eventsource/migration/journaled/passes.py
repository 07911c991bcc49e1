"""The passes of a layout: by changed keys, each proven before the target commits it.

The first pass reads every row as it is, table by table, those first that others refer to. The
guard was made before it, so whatever it misses or sees as it was is in the journal. A pass over few
keys is *exact*: one snapshot shows the journal and the rows, and one transaction of the target
takes them. A pass over many goes in portions and may leave rows out that cannot be there yet; their
keys are in the next pass. The last pass of a cutover is exact.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg

from eventsource import failpoints
from eventsource.dataplane import DataPlaneError
from eventsource.errors import StoreSchemaError
from eventsource.migration.connections import session_marks
from eventsource.migration.connections.driver_connections import close_all, open_connection
from eventsource.migration.errors import CutoverTimeoutError, MissingRowError
from eventsource.migration.failures import concerning
from eventsource.migration.journaled import (
    carriage,
    catalogs,
    changes,
    first_pass,
    growth,
    large_pass,
    loading,
    numbers,
    overflow,
    preparation,
    watching,
)
from eventsource.migration.journaled.exact_pass import ExactPass
from eventsource.migration.journaled.shapes import of as shape_of
from eventsource.migration.journaled.statements import Statements
from eventsource.migration.journaled.transfer import Session, Transfer
from eventsource.migration.journaled.underway import Underway
from eventsource.migration.tables import fences, progress, witnesses
from eventsource.migration.tables.witnesses import Witness

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration

    Connection = asyncpg.Connection[Any]

#: What the server says of a row whose unique value another row has until it is written, too.
EXCHANGED = (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError)

#: How often in a row everything is carried again because of them.
MOST_EXCHANGES = 3

#: Keys up to which a pass is exact.
EXACT_KEYS = 5_000

#: Keys of which the difference is read at a time, at most: more, and the first pass is as quick.
MOST_KEYS = 2_000_000


@dataclass(frozen=True, slots=True)
class PassOutcome:
    """As the data plane reports one; ``inserted`` are the rows that were written."""

    rows: int
    inserted: int
    seconds: float
    finished: bool = True
    digest: bytes = progress.ZERO_DIGEST


@dataclass(slots=True)
class JournaledPasses(Underway):
    """Runs the passes of one migration of a layout on a driver's connections.

    Attributes:
        exchanges: how often everything was carried again in a row, and the next pass could not be
            written for the same reason.
    """

    exchanges: int = 0

    #: A cutover of a layout's table is left no more than one pass needs.
    is_recent = False

    @classmethod
    async def open(
        cls,
        connections: DriverConnections,
        migration: Migration,
        owner: UUID,
        rate: Callable[[], float | None] = lambda: None,
    ) -> JournaledPasses:
        """Claim the progress row and open connections for the rows.

        Raises:
            MissingRowError: the progress row or the fence is not there.
            StoreGoneBackError: the source lacks its barrier.
        """
        source, target = connections.source, connections.target
        with concerning("target"):
            at = await progress.claim(target, migration.id, owner)
            agreed = await carriage.read(target, migration.id)
        fence = await fences.of_migration(source, migration.id, "source")
        if at is not None:
            # A source from before the start has no fence either.
            await witnesses.stand_again(source, migration.id, at.witness, at.source_system)
        if at is None or agreed is None or fence is None:
            raise MissingRowError(
                "the progress row at the target or the fence at the source is not there: check that"
                " the addresses lead to the databases where the migration began, and that neither"
                " was restored to a moment before; if a row was removed by hand, abort the"
                " migration"
            )
        assert source.layout is not None
        shape = await shape_of(source, target, source.layout, migration.tenant_id)
        opened: list[Connection] = []
        try:
            with concerning("source"):
                opened.append(await open_connection(connections.endpoints.source.parameters))
                await session_marks.mark(
                    opened[0], session_marks.data_plane_mark(migration.id, "source")
                )
            with concerning("target"):
                opened.append(await connections.open_target(migration.id))
                await session_marks.mark(opened[1], session_marks.data_plane_mark(migration.id))
        except BaseException:
            await close_all(opened)
            raise
        session = Session(migration.config.max_events_per_second)
        transfer = Transfer(
            Statements(shape, agreed.offsets, agreed.stamp),
            opened[0],
            opened[1],
            session.moved,
        )
        return cls(
            connections, migration, owner, at, agreed, transfer, session, fence.fence_id,
            await numbers.sequences(source, shape), rate, own=opened,
        )  # fmt: skip

    async def close(self) -> None:
        """Close the connections for the rows."""
        await close_all(self.own)

    async def begin(self) -> None:
        """Store the first pass before its first row is read; later ones store themselves."""
        if self.at.proven_snapshot is None and self.at.snapshot is None:
            await overflow.end(self.connections.source, self.migration.id)
            await self._watch()
            await self._look_again()
            taken = await self._snapshot()
            await failpoints.reach("snapshot.taken")
            witness = await self._stand()
            await failpoints.reach("snapshot.barrier.committed")
            await self._store(taken, witness)
            target = self.connections.target
            await carriage.store(
                target.connection, target, self.migration.id, self.owner, self.agreed
            )
            await failpoints.reach("snapshot.stored.committed")

    async def first(self, stopped: asyncio.Event | None = None) -> PassOutcome | None:
        """The first pass, from where it stands; None when asked to stop on the way.

        ``stopped`` ends the building of indexes as well, which begins again when it is resumed.
        """
        await self.refuse_late_triggers()
        if self.at.pass_is_open and not await self._is_as_it_was():
            await self.begin_again()
        if not self.at.pass_is_open:
            await self.begin()
        self.session.stopping = False
        began, before = time.monotonic(), self.session.moved.rows
        if not await first_pass.run(self):
            return None
        await failpoints.reach("bulk.copied")
        built = await loading.end(self, stopped)
        if built is None:
            await self.begin_again()
            return await self.first(stopped)
        if not built:
            return None
        await self._complete()
        await failpoints.reach("bulk.completed.committed")
        rows = self.session.moved.rows - before
        return PassOutcome(rows, rows, time.monotonic() - began)

    async def catch_up(self) -> PassOutcome | None:
        """One more pass; None when asked to stop on the way."""
        if self.at.proven_snapshot is None:
            return await self.first()
        is_gapless = not (await self._has_forgotten() or await overflow.happened(self))
        if not is_gapless or not await self._is_known():
            # Otherwise it would be once more, when the next driver makes the guard fire.
            if not await preparation.mend_source(self):
                return None
            await self.begin_again()
            return await self.first()
        try:
            outcome = await self._carry_changes()
        except EXCHANGED as error:
            # Rows that others refer to have exchanged a unique value: none can be written first.
            # Or a row that is not the tenant's has it, which no copy would change.
            if self.exchanges == MOST_EXCHANGES:
                raise DataPlaneError(
                    "inconsistent",
                    f"the target does not take what has changed, nor did it {MOST_EXCHANGES} times"
                    f" after everything was carried again: {_sentence(error)}. Look whether another"
                    " row of the target has that value; if the application exchanges such values"
                    " all the time, let it rest and resume the migration",
                    {"side": "target"},
                ) from error
            self.exchanges += 1
            await self.begin_again()
            return await self.first()
        self.exchanges = 0
        return outcome

    async def _carry_changes(self) -> PassOutcome | None:
        await self.refuse_late_triggers()
        self.session.stopping = False
        began = time.monotonic()
        exact = ExactPass(self)
        found = await exact.read(EXACT_KEYS)
        if not found:
            rows = await self._large()
            if rows is None:
                return None
            return PassOutcome(rows, rows, time.monotonic() - began)
        witness = await self._stand()
        await failpoints.reach("snapshot.barrier.committed")
        await self._store(exact.snapshot, witness)
        await failpoints.reach("snapshot.stored.committed")
        written = await exact.write()
        await self._complete()
        await failpoints.reach("pass.completed.committed")
        await self._consume(exact.snapshot)
        return PassOutcome(written, written, time.monotonic() - began)

    async def _large(self) -> int | None:
        taken = await self._snapshot()
        await self._store(taken, await self._stand())
        rows = await large_pass.run(self, self.at.previous_snapshot, MOST_KEYS)
        if rows is None:
            return None
        if rows == large_pass.TOO_MANY:
            await self.begin_again()
            return None
        await self._complete()
        await failpoints.reach("pass.completed.committed")
        await self._consume(taken)
        return rows

    async def prepare_last(self) -> None:
        """Store the last pass while writers still run: that is one commit less under the fence."""
        self.session.set_rate(None)
        await self.refuse_exhausted(ahead=True)
        await self._store(None, await self._stand())
        await failpoints.reach("cutover.pass.committed")

    async def under_the_fence(self) -> PassOutcome:
        """The last pass: all that is committed, since nobody can write. Always an exact one."""
        began = time.monotonic()
        exact = ExactPass(self)
        found = await exact.read(EXACT_KEYS * 4)
        if not found:
            raise CutoverTimeoutError(
                self.migration.config.cutover_timeout_seconds,
                reason="the cutover was given up: too much was written just before the fence",
            )
        # After the read: what it has seen is on the source's disk before the target has it.
        await witnesses.stand_again(
            self.connections.source, self.migration.id, self.at.witness, self.at.source_system
        )
        await failpoints.reach("cutover.barrier.committed")
        try:
            written = await exact.write()
        except EXCHANGED as error:
            raise CutoverTimeoutError(
                self.migration.config.cutover_timeout_seconds,
                reason="the cutover was given up: a row has taken a unique value just before the"
                f" fence that another one of the target has ({error}); where that is the tenant's,"
                " too, the next pass carries both, else it fails and says so; ask again",
            ) from error
        self.at = replace(self.at, pass_rows=written, pass_digest=exact.digest)
        return PassOutcome(written, written, time.monotonic() - began, digest=exact.digest)

    async def rehearse_commits(self) -> None:
        """As :meth:`Passes.rehearse_commits`."""
        source, at = self.connections.source, self.at
        await witnesses.stand_again(source, self.migration.id, at.witness, at.source_system)
        await progress.touch(self.connections.target, at)

    async def refresh(self) -> None:
        """Read the progress row again."""
        self.at = await progress.read_again(self.connections.target, self.migration.id)

    async def publish(self) -> None:
        """Publish in the journal how far the copy is."""
        await self.refresh()
        at = self.at
        total = (
            None
            if at.proven_snapshot is None
            else max(self.migration.total_events, at.proven_rows, at.rows_copied)
        )
        await self.connections.migrations.record_progress(
            self.migration.id, self.owner, at.rows_copied, total
        )

    async def _consume(self, upto: str) -> None:
        await changes.consume(self.connections.source, self.fence_id, upto, self.at.pass_number)

    async def _is_as_it_was(self) -> bool:
        return await watching.seen(self.connections.source) == self.agreed.watched

    async def _has_forgotten(self) -> bool:
        """Whether the target was put back to before changes that the journal has no more."""
        consumed = await changes.consumed(self.connections.source, self.fence_id)
        at = self.at
        return consumed > at.pass_number or (consumed == at.pass_number and at.pass_is_open)

    async def _is_known(self) -> bool:
        """Whether the tables are as they were, or leaves have come whose rows are written down."""
        if await self._is_as_it_was():
            return True
        return await growth.adopt(self)

    async def _watch(self) -> None:
        source = self.connections.source
        await growth.cover(source, self.migration.id)
        now = await watching.look(source)
        self.agreed = replace(self.agreed, watched=now.text, tables=now.tables)

    async def _look_again(self) -> None:
        """After it was watched: what is carried are the columns that the tables have now.

        Raises:
            StoreSchemaError: the target does not take them; it is waited for.
        """
        source, target = self.connections.source, self.connections.target
        known = self.transfer.statements
        shape = await shape_of(source, target, known.shape.layout, self.migration.tenant_id)
        problems = [
            str(each) for each in catalogs.of(shape, self.migration.config.fires) if each.refuses
        ]
        if problems:
            raise StoreSchemaError("; ".join(problems))
        self.transfer.statements = replace(known, shape=shape)

    async def begin_again(self) -> None:
        """Writes may have passed the guard by: everything is carried again.

        Raises:
            StoreSchemaError: the target does not take it, and keeps what it has until it does.
        """
        await self._look_again()
        await first_pass.empty(self)
        self.agreed = self.agreed.at(0, (), None)
        await progress.begin_again(
            self.connections.target, self.migration.id, self.owner, self.agreed.to_json()
        )
        await self.refresh()

    async def _snapshot(self) -> str:
        return str(await self.transfer.reading.fetchval("select pg_current_snapshot()::text"))

    async def _stand(self) -> Witness:
        await self.refuse_exhausted()
        number = max(self.at.pass_number, self.above) + 1
        witness = Witness(number, uuid4())
        await witnesses.stand(
            self.connections.source, self.migration.id, witness, self.at.witness,
            self.at.source_system,
        )  # fmt: skip
        return witness

    async def _store(self, snapshot: str | None, witness: Witness) -> None:
        self.at = await progress.begin_pass(
            self.connections.target, self.at, owner=self.owner, snapshot=snapshot, witness=witness
        )

    async def _complete(self) -> None:
        await self.refresh()
        self.at = await progress.complete_pass(self.connections.target, self.at, self.owner)


def _sentence(error: asyncpg.PostgresError) -> str:
    return f"{error} ({error.detail})" if error.detail else str(error)
