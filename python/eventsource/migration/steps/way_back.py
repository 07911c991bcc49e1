"""The way back: made ready before the decision, so that returning is one more cutover.

It is the same protocol in the other direction, with fresh positions. Its first snapshot is taken
at the target of the move before the decision is made: whatever the application appends there
afterwards is not in it. What would not work is found out then, with a pass that carries nothing,
and the move goes on without a way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from eventsource import failpoints
from eventsource.catalog.forms import of_columns
from eventsource.catalog.two_sides import compare
from eventsource.connections import brief, in_a_sentence
from eventsource.dataplane import DataPlaneError
from eventsource.errors import EventSourceError
from eventsource.migration import event_table
from eventsource.migration.connections.driver_connections import DriverConnections
from eventsource.migration.errors import LeaseLostError, MigrationError, StoreGoneBackError
from eventsource.migration.failures import PASSING
from eventsource.migration.models import Migration
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.repositories.ways_back import TABLE, WayBack, WaysBack
from eventsource.migration.states import MigrationState
from eventsource.migration.steps.passes import Passes, Prepared
from eventsource.migration.tables import (
    brief_locks,
    fences,
    guard,
    integrity,
    progress,
    snapshots,
    standby,
    witnesses,
)
from eventsource.migration.tables.witnesses import Witness

if TYPE_CHECKING:
    from eventsource.catalog.two_sides import Comparison
    from eventsource.migration.event_table import AnyTable, OwnTable, Seen
    from eventsource.migration.tables.progress import CopyProgress

_log = logging.getLogger("eventsource.migration.driver")

#: How long a cutover waits until its way back stands (seconds); without, it is made without one.
READY_SECONDS = 10.0

#: How long after a return a moment is waited for to make the guard again (seconds).
SETTLE_SECONDS = 1.0

#: Why tables of another library have none.
OWN_TABLES_ONLY = "ways back are kept between tables of our own only"

#: States of one that its driver left before it stood; what it has at the stores is removed first.
_UNFINISHED = ("preparing", "closing")

_REFUSED = (EventSourceError, asyncpg.PostgresError, *PASSING, brief_locks.LockNeverGranted)

# In the order of the source the target's positions are drawn: none may be set aside for a session.
_DRAWN_IN_ORDER = """
select a.attidentity <> '' or a.atthasdef as fills_itself,
       s.seqcache as cache, s.seqincrement as increment, s.seqcycle as cycle
from pg_attribute a
left join pg_sequence s on s.seqrelid = pg_get_serial_sequence($1, 'global_position')::regclass
where a.attrelid = $1::text::regclass and a.attname = 'global_position'
"""


def opposite(migration: Migration, way_id: UUID, owner: UUID) -> Migration:
    """The migration that a way back would become, for its passes."""
    return replace(
        migration,
        id=way_id,
        source_store_id=migration.target_store_id,
        target_store_id=migration.source_store_id,
        source_identity=migration.target_identity,
        target_identity=migration.source_identity,
        generation=migration.generation + 1,
        state=MigrationState.DUAL_WRITE,
        driver_owner=owner,
        position_offset=None,
        fence_position=None,
        returns=migration.id,
    )


async def keep(
    connections: DriverConnections, migration: Migration, driver: UUID, seen: Seen | None = None
) -> str | None:
    """Make the way back of a migration ready; why there is none, or None when there is.

    The move does not depend on it: the only errors are those of a lost connection or lease, which
    end the cutover's attempt in any case. The next attempt makes it again.

    Args:
        driver: the token of the migration's driver.
        seen: both tables, if they were just looked at.
    """
    ways = WaysBack(connections.control)
    existing = await ways.of_migration(migration.id)
    if existing is not None and existing.state == "standby":
        return None
    if migration.config.keep_way_back == 0:
        return "keep_way_back is 0"
    way_id, owner = uuid4(), uuid4()
    try:
        async with asyncio.timeout(READY_SECONDS):
            if existing is not None and existing.state in _UNFINISHED:
                await dismantle(connections, existing)
                await ways.change(existing.id, _UNFINISHED, "refused", "it was not finished")
            refused, compared = await look(
                connections.source, connections.target, fires=migration.config.fires, seen=seen
            )
            if refused or compared is None:
                return await _refused(ways, migration, driver, "; ".join(refused))
            await ways.insert(way_id, migration, driver, migration.config.keep_way_back, owner)
            await failpoints.reach("keep.recorded.committed")
            await _make(connections, migration, way_id, owner, compared)
            await ways.change(way_id, ["preparing"], "standby")
            await failpoints.reach("keep.armed.committed")
    except _REFUSED as error:
        if _is_lost(error):
            raise
        _log.warning("migration %s has no way back: %s", migration.id, brief(error))
        reason = in_a_sentence(error) or "it was not ready in time"
        await _end_what_is_open(connections)
        # What it has left is removed by the process that closes it.
        await ways.change(way_id, ["preparing"], "closing", reason)
        return reason
    return None


async def _end_what_is_open(connections: DriverConnections) -> None:
    """The driver goes on with its sessions, whatever the trial was at when it was given up."""
    for table in (connections.source, connections.target):
        if table.connection.is_in_transaction():
            await table.connection.execute("rollback")


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, DataPlaneError):
        return error.kind == "connection_lost"
    lost = (
        ConnectionError, asyncpg.PostgresConnectionError, asyncpg.InternalClientError,
        LeaseLostError,
    )  # fmt: skip
    # The class itself is what a connection says that is closed already.
    return isinstance(error, lost) or type(error) is asyncpg.InterfaceError


async def _refused(ways: WaysBack, migration: Migration, driver: UUID, reason: str) -> str:
    way_id = uuid4()
    await ways.insert(way_id, migration, driver, 0, way_id)
    await ways.change(way_id, ["preparing"], "refused", reason)
    return reason


async def look(
    old: AnyTable, home: AnyTable, *, fires: bool, seen: Seen | None = None
) -> tuple[list[str], Comparison | None]:
    """What would keep a tenant's events from going back to ``old``, in sentences.

    It changes nothing, so it can be asked before a move begins. With both tables, compared in that
    direction.
    """
    if old.layout is not None or home.layout is not None:
        return [OWN_TABLES_ONLY], None
    if seen is None or not seen.is_fresh:
        seen = await event_table.seen(old, home)
    # Events that go back get the next positions there.
    compared = compare(seen.target, seen.source, fire=fires, block=False)
    of = "of a return, whose target is the old store"
    found = [f"{of}: {each}" for each in compared.findings if each.refuses]
    row = await old.connection.fetchrow(_DRAWN_IN_ORDER, old.name)
    if row is None or not row["fills_itself"] or row["cache"] is None:
        found.append(f"positions of {old.address.table!r} are not drawn from a sequence")
    elif row["cache"] != 1 or row["increment"] < 1 or row["cycle"]:
        found.append(
            f"the sequence of {old.address.table!r} does not hand its numbers out one after the"
            " other: alter sequence … cache 1 increment by 1 no cycle"
        )
    return found, compared


def required(why_not: str) -> str:
    """The problem of a cutover that is meant to keep a way back, and cannot."""
    return (
        f"no way back can be kept, and this cutover asks for one: {why_not}; change that, or go"
        " without: --keep-way-back 0"
    )


async def _make(
    connections: DriverConnections,
    migration: Migration,
    way_id: UUID,
    owner: UUID,
    compared: Comparison,
) -> None:
    old, home = connections.source, connections.target
    budget = migration.config.cutover_timeout_seconds
    patience = int((budget + fences.GUARD_PATIENCE_SECONDS) * 1000)
    tenant = migration.tenant_id
    await standby.add_fence(
        old, tenant_id=tenant, migration_id=way_id, store_id=migration.source_store_id,
        role="target", patience_ms=patience,
    )  # fmt: skip
    await failpoints.reach("keep.standby.committed")
    await standby.add_fence(
        home, tenant_id=tenant, migration_id=way_id, store_id=migration.target_store_id,
        role="source", patience_ms=patience,
    )  # fmt: skip
    # Before the first snapshot: from then on every append there is guarded.
    await _put_up_guard(home)
    await failpoints.reach("keep.guard.committed")
    taken = await snapshots.take(home.connection)
    witness = Witness(1, uuid4())
    await witnesses.stand(home, way_id, witness, None, taken.system)
    await standby.add_progress(
        old, tenant_id=tenant, migration_id=way_id, owner=owner, taken=taken, witness=witness,
        columns=compared.carried, shape=await integrity.shape(home),
    )  # fmt: skip
    await failpoints.reach("keep.snapshot.committed")
    forms = of_columns(map(compared.source.column, compared.carried))
    prepared = Prepared(await progress.read_again(old, way_id), forms, is_first=True)
    await _try_out(connections, opposite(migration, way_id, owner), owner, prepared)


async def _put_up_guard(home: OwnTable, seconds: float = READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds

    async def renewed() -> None:
        await guard.renew(home)

    await brief_locks.transact(home.connection, renewed, lambda: time.monotonic() < deadline)


async def settle(connections: DriverConnections) -> None:
    """After a return: the guard of the store that is home again is what its fences say.

    Nothing depends on it: until then the tenant's appends look at a fence that is open.
    """
    with contextlib.suppress(brief_locks.LockNeverGranted):
        await _put_up_guard(connections.target, SETTLE_SECONDS)


async def _try_out(
    connections: DriverConnections, way: Migration, owner: UUID, prepared: Prepared
) -> None:
    """One pass, with all that the return will need: what fails now would have failed then.

    It has the driver's sessions, which wait for it, and those of the data plane for itself.
    """
    old, home = connections.source, connections.target
    there = replace(connections.endpoints, source=home.address, target=old.address)
    back = replace(connections, endpoints=there, source=home, fence=home, target=old)
    await catch_up(back, way, owner, prepared)


async def passes(
    connections: DriverConnections,
    way: Migration,
    owner: UUID,
    prepared: Prepared | None = None,
) -> Passes:
    """Those of a way back, ready to run; the caller closes their session.

    Args:
        prepared: what was made a moment ago.
    """
    return await Passes.open(connections, way, owner, journal=TABLE, prepared=prepared)


async def catch_up(
    connections: DriverConnections, way: Migration, owner: UUID, prepared: Prepared
) -> None:
    """Passes of a way back until one carries few events."""
    running = await passes(connections, way, owner, prepared)
    try:
        while True:
            result = await running.catch_up()
            if result is None or result.inserted <= way.config.sync_lag_threshold:
                return
    finally:
        await running.session.close()


def lost(way: WayBack) -> MigrationError:
    """The error for a store that does not know its way back any more."""
    return StoreGoneBackError(
        f"store {way.target_store_id!r} holds nothing of the way back of migration"
        f" {way.migration_id}: it was restored or failed over to a moment before, or the control"
        " database was, and the way back has ended since. Nothing was changed:"
        " `eventsource-migrate repair` closes the way back, and says what else is missing"
    )


async def refuse_ended(old: AnyTable, way: WayBack) -> None:
    """Its fence at the old store is the first thing that goes out of force when it ends.

    Raises:
        StoreGoneBackError: it is not there, or out of force for good: the store could not be
            opened after a return had been decided.
    """
    standing = await fences.of_migration(old, way.id, "target")
    if standing is None or standing.state == standby.RETIRED:
        raise lost(way)


async def refuse_gone_back(old: AnyTable, home: AnyTable, way: WayBack) -> CopyProgress | None:
    """The progress of a way back whose home has lost nothing that was carried; None without one.

    Of one that is being closed, and whose fence says so already, nobody asks that again.

    Raises:
        StoreGoneBackError: the old store may hold events that home has lost, or the tenant has
            returned by it and the control database has forgotten that; nothing was changed.
    """
    if way.state != "returning":
        await _refuse_decided(home, way)
    at = await progress.read(old, way.id)
    standing = await fences.of_migration(old, way.id, "target")
    if at is None or at.witness is None or standing is None or standing.state != standby.STANDBY:
        return at
    if not await witnesses.stands(home, way.id, at.witness):
        if await progress.read(old, way.id) is None:
            return None  # closed by somebody else, a moment ago
        raise StoreGoneBackError(
            f"store {way.source_store_id!r}, where tenant {way.tenant_id} lives, does not hold what"
            f" its way back had seen there: it was restored or failed over to a moment before, and"
            f" store {way.target_store_id!r} may have events that it has lost. Nothing was changed:"
            " `eventsource-migrate repair` names them, and puts back those that have a place"
        )
    return at


async def _refuse_decided(home: AnyTable, way: WayBack) -> None:
    """The control database may have gone back to before a return, whose decision is no guard."""
    leaving = await fences.of_migration(home, way.id, "source")
    if leaving is not None and leaving.state == "moved":
        raise StoreGoneBackError(
            f"tenant {way.tenant_id} has returned from store {way.source_store_id!r} to"
            f" {way.target_store_id!r} by the way back of migration {way.migration_id}, and the"
            f" control database says {way.state!r}: it was restored to a moment before. Nothing was"
            " changed: `eventsource-migrate repair` brings it in line with the stores"
        )


async def dismantle(connections: DriverConnections, way: WayBack) -> None:
    """Remove what a way back has at the stores of the *move*; every step may be repeated.

    Events that it has carried stay where they are, hidden: they go with the old rows.
    """
    old, home = connections.source, connections.target
    await standby.retire(old, way.tenant_id, way.id)
    await failpoints.reach("close.retired.committed")
    fence = await fences.of_migration(home, way.id, "source")
    if fence is not None:
        await guard.remove(home, fence)
    await failpoints.reach("close.guard.committed")
    # While the progress is there, it asks for its barrier.
    await progress.remove(old, way.id)
    await witnesses.forget(home, way.id)
    await PostgreSQLPositionMappingRepository(connections.control).delete(way.id)


async def forget(connections: DriverConnections, migration: Migration) -> None:
    """A move that is aborted, and will not be decided any more, needs none."""
    ways = WaysBack(connections.control)
    way = await ways.of_migration(migration.id)
    if way is None or way.state in ("refused", "closed"):
        return
    await dismantle(connections, way)
    # The old store was guarded for it too, and the move's own guard there is gone already.
    with contextlib.suppress(brief_locks.LockNeverGranted):
        await _put_up_guard(connections.source, SETTLE_SECONDS)
    await ways.change(way.id, ["preparing", "standby", "closing"], "closed", "the move was aborted")


async def give_up_return(connections: DriverConnections, migration: Migration, owner: UUID) -> None:
    """An aborted return: the way back stands by again. Nothing was decided under the lock.

    The progress row is claimed before that is asked: a driver that was frozen commits no last pass
    any more, and so decides nothing.
    """
    await standby.rest(connections.target, migration.id)
    await failpoints.reach("return.rested.committed")
    await connections.migrations.record_abort(migration, owner)
    await WaysBack(connections.control).give_up(migration.id)
