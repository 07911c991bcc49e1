"""The decision and what follows from it.

The fence row of the source decides. Everything here may be run by any process, any number of
times: it reads the decision and rolls the rest forward to it, never back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource import failpoints
from eventsource.migration.connections import blockers, waits
from eventsource.migration.connections.transactions import parsed
from eventsource.migration.errors import (
    InvalidStateTransitionError,
    PreflightError,
    RepairNeededError,
)
from eventsource.migration.event_table import AnyTable, OwnTable
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.states import MigrationState
from eventsource.migration.tables import brief_locks, fences, identities, integrity
from eventsource.migration.tables.proofs import Proof
from eventsource.tenant_ids import as_uuid, stored

if TYPE_CHECKING:
    from eventsource.migration.errors import Blocker
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence


@dataclass(frozen=True, slots=True)
class Decision:
    """What the source's fence row says: where the tenant went and where its source ended.

    ``proof`` is what the target must hold to be opened; None when an older version decided.
    """

    generation: int
    source_head: int
    position_offset: int
    proof: Proof | None = None


async def prepare(source: OwnTable) -> asyncpg.prepared_stmt.PreparedStatement[Any]:
    """The decision, parsed before the fence is asked for: that is a round trip less under it.

    Also, a driver that goes silent between parsing and running a statement is not idle to the
    server, which then does not free the fence.
    """
    drawn = (
        "coalesce(pg_sequence_last_value(pg_get_serial_sequence($6, 'global_position')::regclass),"
        " 0)"
    )
    return await parsed(
        source.connection,
        f"update {source.fences} set state = 'moved', generation = generation + 1,"
        f" moved_to = $4, position_offset = $5, updated_at = now(), source_head = {drawn}"
        ", decided_pass = $7, decided_token = $8, decided_rows = $9, decided_digest = $10,"
        " decided_total = $11"
        " where fence_id = $1 and migration_id = $2 and generation = $3 and state = 'open'"
        # Another one that speaks later was not there when the migration began.
        f" and not exists (select from {source.fences} o where o.lock_id = $14"
        " and o.generation > $3)"
        # What was fine when the migration began may not be so any more.
        f" and cardinality({integrity.wrong('$6::text::regclass', '$12::text[]', '$13::text')}) = 0"
        f" and {integrity.all_drawn(source.name, '$15', drawn)}"
        " and role = 'source' returning generation, source_head, position_offset",
    )


async def decide(
    prepared: asyncpg.prepared_stmt.PreparedStatement[Any],
    source: AnyTable,
    migration: Migration,
    fence: Fence,
    offset: int,
    agreed: str | None,
    proof: Proof,
) -> Decision | None:
    """Inside the transaction that holds the lock: mark the tenant as moved.

    ``agreed`` is the shape of the columns that the migration began with. Returns None when the
    fence is not the one the migration raised; the transaction must then be rolled back. Committing
    it is the decision.

    Raises:
        PreflightError: the guard would be walked past, the columns are others, or the tenant has
            events above what its sequence has drawn; as above.
    """
    guards, tenant_id = integrity.guards_of(fence), as_uuid(migration.tenant_id)
    row = await prepared.fetchrow(
        fence.fence_id, migration.id, migration.generation, migration.target_store_id, offset,
        source.name, proof.last_pass, proof.token, proof.rows, proof.digest, proof.total, guards,
        agreed, fence.lock_id, tenant_id,
    )  # fmt: skip
    if row is None:
        wrong = await source.connection.fetchval(integrity.statement(), source.name, guards, agreed)
        if wrong:
            raise PreflightError(integrity.explained(source, "source", wrong))
        found = await integrity.positions(source, tenant_id)
        if found is not None and found.not_drawn is not None:
            raise PreflightError(["; ".join(found.not_drawn)])
    return Decision(**dict(row), proof=proof) if row is not None else None


async def find(source: OwnTable, migration: Migration) -> Decision | None:
    """What was decided; that nothing was is established while holding the lock.

    A plain read cannot distinguish a decision that is still committing from none: the lock waits
    for the session that may be committing it. It is asked for briefly and again, because new
    writers queue after the wait.
    """
    pause = 0.1
    store = migration.source_store_id
    async with waits.waiting(
        f"for the appends that are in flight at the tenant's fence in store {store!r}",
        "it ends with their transactions",
    ) as wait:
        while True:
            fence = await fences.of_migration(source, migration.id, "source")
            decided = of(fence)
            if decided is not None or fence is None:
                return decided
            try:
                async with brief_locks.held_briefly(source.connection):
                    await fences.lock_exclusively(source.connection, fence)
                    await failpoints.reach("recovery.lock.held")
                    # A statement of its own: its snapshot is taken after the wait.
                    return of(await fences.of_migration(source, migration.id, "source"))
            except asyncpg.LockNotAvailableError:
                await wait.goes_on(partial(_in_flight, source, fence))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)


async def _in_flight(source: OwnTable, fence: Fence, seconds: float) -> list[Blocker]:
    return await blockers.of_fence(source.connection, fences.LOCK_CLASS, fence.lock_id, seconds)


def of(fence: Fence | None) -> Decision | None:
    """The decision that a migration's fence at the source stands for, None while it is open."""
    if fence is None or fence.state != "moved":
        return None
    assert fence.source_head is not None
    return Decision(fence.generation, fence.source_head, fence.position_offset, fence.proof)


async def open_target(target: AnyTable, migration: Migration, decided: Decision) -> None:
    """Let applications write at the target: first the sequence, then the fence.

    One round trip, because writers wait for it; see ``eventsource_open_target`` in fences.sql.
    Idempotent.

    Raises:
        RepairNeededError: the target does not hold what was decided on, and stays closed.
    """
    await failpoints.reach("flip.target.before")
    proof, state = decided.proof, "closed"
    # The positions of a return were drawn from the target's own sequence.
    last_carried = decided.source_head + decided.position_offset if not migration.returns else 0
    if proof is not None:
        state = await target.connection.fetchval(
            f"select {target.beside('eventsource_open_target')}"
            "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            target.address.table, stored(migration.tenant_id), migration.id, decided.generation,
            last_carried, proof.last_pass, proof.token, proof.rows,
            proof.digest, proof.total,
        )  # fmt: skip
    elif await fences.is_open(target, migration.id):
        state = "open"
    if state != "open":
        raise RepairNeededError(
            f"tenant {migration.tenant_id} has moved to {target.address.table!r}, which does not"
            f" hold what was decided on (its fence: {state}): it was restored or failed over to a"
            " moment before, or a process of an older version decided. It stays closed until a"
            " driver has carried what is missing; let one work (`eventsource-migrate work`)"
        )
    await failpoints.reach("flip.target.committed")


async def finish(
    migrations: PostgreSQLMigrationRepository,
    migration: Migration,
    decided: Decision,
    pause_ms: float | None = None,
    longest_wait_ms: float | None = None,
) -> Migration:
    """Write route and state once the target is open; the second process finds it done."""
    await migrations.record_decision(
        migration.id, decided.source_head,
        None if migration.returns else decided.position_offset, pause_ms, longest_wait_ms,
        decided.proof.total if decided.proof is not None else None,
    )  # fmt: skip
    await failpoints.reach("flip.journal.committed")
    try:
        moved = await migrations.transition(
            migration,
            MigrationState.MIGRATED,
            details={
                "fence_position": decided.source_head,
                "position_offset": None if migration.returns else decided.position_offset,
                "pause_ms": None if pause_ms is None else round(pause_ms, 3),
            },
        )
    except InvalidStateTransitionError:
        current = await migrations.get(migration.id)
        if current.state is not MigrationState.MIGRATED:
            raise
        return current
    await failpoints.reach("flip.route.committed")
    return moved


async def roll_forward(
    migrations: PostgreSQLMigrationRepository,
    migration: Migration,
    source: AnyTable,
    target: AnyTable,
) -> bool:
    """Finish a flip whose driver died after the decision; False when nothing was decided.

    ``moved`` once committed never goes back, so a plain read suffices to act on it; it is only
    the absence of a decision that takes the lock to establish.

    Raises:
        StoreMismatchError: one of the stores is another place than at the start.
        RepairNeededError: the target lacks what was decided on; from now on that is due for a
            driver, also when the journal had the move for finished.
    """
    decided = of(await fences.of_migration(source, migration.id, "source"))
    if decided is None:
        return False
    await identities.check(migration, source, target)
    try:
        await open_target(target, migration, decided)
    except RepairNeededError as error:
        await migrations.reopen(migration, str(error))
        raise
    await finish(migrations, migration, decided)
    return True
