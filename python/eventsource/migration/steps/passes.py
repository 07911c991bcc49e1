"""The sequence of passes: pass k moves what snapshot S(k) shows and S(k-1) does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventsource import failpoints
from eventsource.catalog.one_side import fired
from eventsource.dataplane import PassResult, PassSession, PassSessionConfig, PassSpec
from eventsource.migration.connections import timeouts
from eventsource.migration.errors import MigrationError, MissingRowError
from eventsource.migration.event_table import catalog_of, compared, forms_of
from eventsource.migration.failures import concerning
from eventsource.migration.models import LAST_POSITION
from eventsource.migration.steps import rescue
from eventsource.migration.tables import progress, snapshots, witnesses
from eventsource.migration.tables.late_triggers import LateTriggers
from eventsource.migration.tables.witnesses import Witness
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.progress import CopyProgress


#: What a pass that began no longer ago has left is little (seconds).
RECENT_SECONDS = 1.0


async def _claimed(
    connections: DriverConnections, migration: Migration, owner: UUID
) -> CopyProgress:
    with concerning("target"):
        at = await progress.claim(connections.target, migration.id, owner)
    if at is None:
        raise MissingRowError(
            "the progress row at the target is not there: check that the dsn leads to the database"
            " where the migration began, and that it was not restored to a moment before. If what"
            " was copied is gone, end the migration with `eventsource-migrate abort"
            f" {migration.id} --without-target` and move the tenant again"
        )
    return at


async def _carried(connections: DriverConnections, at: CopyProgress) -> tuple[str, ...]:
    """What the first pass carried is what every pass carries, whatever was added meanwhile."""
    if at.columns:
        return tuple(at.columns)
    return (await compared(connections.source, connections.target)).carried


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a step that has just made everything ready leaves for the first pass.

    Attributes:
        at: the progress row, which has this driver's token.
        forms: of the carried columns' values.
        is_first: no driver has had the row before this one.
    """

    at: CopyProgress
    forms: tuple[str, ...]
    is_first: bool


@dataclass(slots=True)
class Passes:
    """Runs one migration's passes on a driver's connections.

    Every pass goes the same way, whatever its size: snapshot, barrier, store, copy and map, prove,
    record. ``at`` is the progress row as last read or written by this driver, ``rate`` what the
    session is held to now (events per second). Passes are numbered ``above`` those that a decision
    has named.
    """

    connections: DriverConnections
    migration: Migration
    session: PassSession
    owner: UUID
    at: CopyProgress
    rate: Callable[[], float | None] = lambda: None
    above: int = 0
    #: When the newest pass took its snapshot (by the monotonic clock).
    _begun_at: float = float("-inf")
    _triggers: LateTriggers = field(default_factory=LateTriggers)

    @property
    def is_recent(self) -> bool:
        """Whether the newest pass is done, and little can have been written since its snapshot."""
        return not self.at.pass_is_open and time.monotonic() - self._begun_at < RECENT_SECONDS

    @classmethod
    async def open(
        cls,
        connections: DriverConnections,
        migration: Migration,
        owner: UUID,
        rate: Callable[[], float | None] = lambda: None,
        journal: str = "tenant_migrations",
        prepared: Prepared | None = None,
    ) -> Passes:
        """Claim the progress row and open the data plane's connections.

        Args:
            journal: the control table whose row names the owner.
            prepared: what was claimed and looked at a moment ago.

        Raises:
            MissingRowError: the progress row is not there.
            StoreGoneBackError: the source lacks its barrier, or events that the target holds.
        """
        at = prepared.at if prepared else await _claimed(connections, migration, owner)
        if prepared is None or at.pass_is_open:
            # A pass that begins asks for the barrier before it.
            await witnesses.stand_again(
                connections.source, migration.id, at.witness, at.source_system
            )
        await rescue.look_after_a_restart(connections.source, connections.target, at)
        endpoints, fresh = connections.endpoints, migration.returns is not None
        columns = await _carried(connections, at)
        with concerning("source"):
            forms = prepared.forms if prepared else await forms_of(connections.source, columns)
        config = PassSessionConfig(
            migration_id=migration.id,
            tenant_id=as_uuid(migration.tenant_id),
            owner=at.owner,
            source=endpoints.source,
            target=endpoints.target,
            control_dsn=await endpoints.control.uri(),
            control_schema=endpoints.control_schema,
            columns=columns,
            forms=forms,
            offset=at.position_offset,
            last_target_position=LAST_POSITION if fresh else at.last_target_position,
            chunk_rows=migration.config.chunk_rows,
            chunk_bytes=migration.config.chunk_bytes,
            jobs=migration.config.copy_jobs,
            max_events_per_second=migration.config.max_events_per_second,
            journal=journal,
            fresh_positions=fresh,
            mapping_rows=migration.maps_rows,
            is_first=prepared is not None and prepared.is_first,
            kept=endpoints.kept_by_the_data_plane,
        )
        # A server may take the login and answer nothing after it.
        session = await timeouts.unless_stalled(
            PassSession.open(await config.resolved()),
            lambda: None,
            lambda: timeouts.STALLED_SECONDS,
            "the connections of the data plane",
        )
        return cls(connections, migration, session, owner, at, rate)

    async def close(self) -> None:
        """Close the data plane's connections."""
        await self.session.close()

    async def catch_up(self) -> PassResult | None:
        """One more pass, or the rest of one that was interrupted; None when asked to stop."""
        await self.refuse_late_triggers()
        if not self.at.pass_is_open:
            await self.begin()
        result = await self.run_stored()
        if not result.finished:
            return None
        await self.complete()
        await failpoints.reach("pass.completed.committed")
        return result

    async def begin(self, up_to: str | None = None) -> None:
        """Take the next snapshot, make it safe, and store it before anything is read with it.

        Args:
            up_to: the snapshot to use instead; it shows nothing that one of now would not.

        Raises:
            StoreGoneBackError: the source lacks what it had committed.
        """
        source = self.connections.source
        begun_at = time.monotonic()
        taken = await snapshots.take(source.connection)
        await failpoints.reach("snapshot.taken")
        witness = await self._stand()
        await failpoints.reach("snapshot.barrier.committed")
        await self._store(up_to or taken.text, witness)
        self._begun_at = begun_at if up_to is None else float("-inf")
        await failpoints.reach("snapshot.stored.committed")

    async def prepare_last(self, up_to: str | None = None) -> None:
        """Store the last pass while writers still run: that is one commit less under the fence.

        Args:
            up_to: a snapshot that bounds it; without one it sees whatever is committed.
        """
        # The throttle spares the servers while nobody waits. Here it would only make writers wait.
        self.session.set_rate(None)
        await self._store(up_to, await self._stand())
        await failpoints.reach("cutover.pass.committed")

    async def under_the_fence(self) -> PassResult:
        """The last pass: no upper bound but what is committed, since nobody can write.

        The barrier comes after the grant and before the first read, so that everything read is on
        the source's disk. Its rows are proven before the target commits them.
        """
        await witnesses.stand_again(
            self.connections.source, self.migration.id, self.at.witness, self.at.source_system
        )
        await failpoints.reach("cutover.barrier.committed")
        result = await self.run_stored()
        if not result.finished:
            raise MigrationError("the last pass was stopped before its end")
        self.at = replace(self.at, pass_rows=result.rows, pass_digest=result.digest)
        return result

    async def rehearse_commits(self) -> None:
        """Commit at the source and then at the target, as a decision and an opening do."""
        source, at = self.connections.source, self.at
        await witnesses.stand_again(source, self.migration.id, at.witness, at.source_system)
        await progress.touch(self.connections.target, self.at)

    async def refresh(self) -> None:
        """Read the progress row again."""
        self.at = await progress.read_again(self.connections.target, self.migration.id)

    async def publish(self) -> None:
        """Publish in the journal how far the copy is."""
        # Of a pass that is done the row is at hand.
        if self.at.pass_is_open:
            await self.refresh()
        at = self.at
        total = None if at.proven_snapshot is None else max(self.migration.total_events, at.carried)
        await self.connections.migrations.record_progress(
            self.migration.id, self.owner, at.carried, total
        )

    async def refuse_late_triggers(self) -> None:
        """Before anything is carried.

        Raises:
            StoreSchemaError: somebody has made one at the target that would fire for it.
        """
        target = self.connections.target

        async def look() -> list[str]:
            found = fired(await catalog_of(target, "target"), fire=self.migration.config.fires)
            return [str(each) for each in found if each.refuses]

        await self._triggers.refuse(target, [target.name], look)

    async def _stand(self) -> Witness:
        number = max(self.at.pass_number, self.above) + 1
        witness = Witness(number, uuid4())
        await witnesses.stand(
            self.connections.source,
            self.migration.id,
            witness,
            self.at.witness,
            self.at.source_system,
        )
        return witness

    async def _store(self, snapshot: str | None, witness: Witness) -> None:
        self.at = await progress.begin_pass(
            self.connections.target,
            self.at,
            owner=self.owner,
            snapshot=snapshot,
            witness=witness,
        )

    async def run_stored(self) -> PassResult:
        """Run the stored pass from its cursor."""
        spec = PassSpec(
            number=self.at.pass_number,
            previous_snapshot=self.at.previous_snapshot,
            snapshot=self.at.snapshot,
            staged=self.at.staged,
        )
        return await timeouts.unless_stalled(
            self.session.run(spec), self._moved, self._patience, f"pass {spec.number}"
        )

    def _patience(self) -> float:
        # A throttled chunk may take its time on purpose.
        rate = self.rate() or float("inf")
        return timeouts.STALLED_SECONDS + self.migration.config.chunk_rows / rate

    def _moved(self) -> tuple[int, int]:
        seen = self.session.progress()
        return seen.bytes, seen.chunks

    async def complete(self) -> None:
        """Record the pass as proven: the next one starts from its snapshot."""
        self.at = await progress.complete_pass(self.connections.target, self.at, self.owner)
