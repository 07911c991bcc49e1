"""A store that has forgotten a decision hears of it again.

The highest generation in any store speaks. A target that is open is a witness of the decision, also
where its source has gone back to before that and takes the tenant's events again. Who has both rows
before it lets the source say at once that the tenant has left.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventsource.counts import counted
from eventsource.migration import event_table
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.consistency.only_in import only_in
from eventsource.migration.tables import brief_locks, fences, guard, identities, progress
from eventsource.migration.tables.progress import ZERO_DIGEST
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.models import Migration, StoreIdentity
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.tables.fences import Fence

_log = logging.getLogger("eventsource.migration.driver")

#: What the audit log names of one store that had gone back, at most; `repair` names all.
NAMED = 1000


@dataclass(frozen=True, slots=True)
class Departure:
    """What a source's fence says of a tenant that has left.

    Attributes:
        source_head: where the source ended, None when nobody knows it any more.
        last_pass: of the target's progress row.
    """

    tenant_id: TenantId
    migration_id: UUID
    generation: int
    store_id: str
    moved_to: str
    source_head: int | None
    position_offset: int
    last_pass: int
    peer: StoreIdentity | None


async def send_on(table: OwnTable, left: Departure) -> None:
    """Let this store's fence say again that the tenant has left; no decision is undone by that.

    Appends that are in flight are waited for, and what they wrote stays.
    """
    head = left.source_head
    if head is None:
        sequence = await event_table.position_sequence(table)
        head = await event_table.head(table.connection, sequence)
    connection = table.connection
    total = await connection.fetchval(
        f"select count(*) from {table.name} where tenant_id = $1 and global_position <= $2",
        left.tenant_id, head, timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip

    async def write() -> None:
        # The table before the fence, as everywhere.
        await connection.execute(f"lock table {table.name} in share row exclusive mode")
        await write_fence(table, left, head, total)
        await guard.renew(table)

    await brief_locks.transact(connection, write, what=f"for a lock on {table.name}")


async def write_fence(table: OwnTable, left: Departure, head: int, total: int) -> None:
    """In the caller's transaction, under the tenant's lock: the decision, as it was made.

    It names a token that no pass has: should the target be put back to before it was opened, it is
    not opened as it is, but gets all that is here.
    """
    known = await fences.read(table, left.tenant_id)
    if known is not None:
        await fences.lock_exclusively(table.connection, known)
    await table.connection.execute(
        "with numbered as materialized (select nextval(pg_get_serial_sequence($17,"
        f" 'fence_id'))::integer as id) insert into {table.fences} as f (fence_id, lock_id,"
        " table_name, tenant_id, role, state, generation, migration_id, store_id, moved_to,"
        " source_head, position_offset, patience_ms, decided_pass, decided_token, decided_rows,"
        " decided_digest, decided_total, peer, table_oid) overriding system value"
        " select id, coalesce($1::integer, id), $2::text, $3::text, 'source', 'moved',"
        " $4::bigint, $5::uuid, $6::text, $7::text, $8::bigint, $9::bigint, $10::integer,"
        " $11::integer, $12::uuid, $13::bigint, $14::bytea, $15::bigint, $16::text::jsonb,"
        " $18::text::regclass from numbered"
        " on conflict (table_name, tenant_id, migration_id, role) do update set"
        " state = 'moved', generation = excluded.generation, moved_to = excluded.moved_to,"
        " source_head = excluded.source_head, position_offset = excluded.position_offset,"
        " decided_pass = excluded.decided_pass, decided_token = excluded.decided_token,"
        " decided_rows = excluded.decided_rows, decided_digest = excluded.decided_digest,"
        " decided_total = excluded.decided_total, updated_at = now()"
        " where f.generation <= excluded.generation and f.state <> 'moved'",
        known.lock_id if known is not None else None, table.address.table,
        stored(left.tenant_id), left.generation, left.migration_id, left.store_id,
        left.moved_to, head, left.position_offset, int(fences.GUARD_PATIENCE_SECONDS * 1000),
        left.last_pass, uuid4(), 0, ZERO_DIGEST, total,
        left.peer.to_json() if left.peer else None,
        table.fences, table.name,
    )  # fmt: skip


async def only_there(source: OwnTable, target: AnyTable, migration: Migration) -> list[str]:
    """The ids of the tenant's events that only the source has."""
    return [str(row["event_id"]) async for row in only_in(source, target, migration.tenant_id)]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a store of one kind of tables is sent on.

    Attributes:
        send_on: lets it say again that the tenant has left.
        only_there: names what it alone has of the tenant.
        counted_as: what there is so many of, with its verb: of one and of several.
        said_of_them: what they are, and what may become of them.
    """

    send_on: Callable[[OwnTable, Departure], Awaitable[None]]
    only_there: Callable[[OwnTable, AnyTable, Migration], Awaitable[list[str]]]
    counted_as: tuple[str, str]
    said_of_them: str


#: The tables of this package's stores.
OWN = Kind(
    send_on,
    only_there,
    ("event was", "events were"),
    "appended there meanwhile, and nowhere else; `eventsource-migrate repair"
    " --export PATH` names them, and with --put-back appends those that fit to where the tenant"
    " lives",
)


async def has_forgotten(source: AnyTable, target: AnyTable, migration: Migration) -> Fence | None:
    """The target's fence, where the tenant lives and of which the source knows no more.

    None where both agree, or where somebody else has to say where the tenant lives.
    """
    arrived = await fences.of_migration(target, migration.id, "target")
    if arrived is None or arrived.state != "open":
        return None
    home = await fences.read(target, migration.tenant_id)
    left = await fences.read(source, migration.tenant_id)
    if home is None or home.state != "open" or home.generation < arrived.generation:
        return None
    return arrived if left is None or left.generation < arrived.generation else None


async def remind(
    source: OwnTable,
    target: AnyTable,
    migration: Migration,
    migrations: PostgreSQLMigrationRepository,
    kind: Kind = OWN,
) -> str | None:
    """Let a source that has forgotten its decision say again that the tenant has left.

    What was appended there since stays, and the audit log names it. None where there is nothing to
    say; else a sentence about it.
    """
    arrived = await has_forgotten(source, target, migration)
    if arrived is None:
        return None
    at = await progress.read(target, migration.id)
    await kind.send_on(
        source,
        Departure(
            migration.tenant_id, migration.id, arrived.generation, migration.source_store_id,
            migration.target_store_id, migration.fence_position,
            at.position_offset if at else arrived.position_offset,
            at.pass_number if at else 0, await identities.of(target),
        ),
    )  # fmt: skip
    named = await kind.only_there(source, target, migration)
    said = (
        f"tenant {migration.tenant_id} was opened at the target {migration.target_store_id!r}"
        f" (generation {arrived.generation}), and store {migration.source_store_id!r} had gone back"
        f" to before that: its fence says again that the tenant has left. "
        f"{counted(len(named), *kind.counted_as)} {kind.said_of_them}"
    )
    details = {
        "store": migration.source_store_id,
        "generation": arrived.generation,
        "events": len(named),
        "only_there": named[:NAMED],
    }
    await migrations.audit(migration.id, "sent_on", details)
    _log.warning("%s", said, extra={"migration_id": migration.id})
    return said


async def disagreement(source: AnyTable, target: AnyTable, migration: Migration) -> str | None:
    """What the fences of a move say against each other, or against the journal; for a person.

    Reads, and nothing else: why, is in decision 17.
    """
    tenant, names = migration.tenant_id, (migration.source_store_id, migration.target_store_id)
    arrived = await has_forgotten(source, target, migration)
    if arrived is not None:
        return (
            f"store {names[0]!r} has gone back to before tenant {tenant} moved to {names[1]!r}"
            f" (generation {arrived.generation}), and takes its events again: keep its writers away"
            " from there, and run `eventsource-migrate repair`, which writes into its fence that"
            " the tenant has left, and names what was written there meanwhile; who looks changes"
            " nothing"
        )
    left = await fences.of_migration(source, migration.id, "source")
    if left is None or left.state != "moved" or not migration.state.is_final:
        return None
    home = await fences.read(target, tenant)
    if home is not None and home.generation >= left.generation:
        return None
    return (
        f"store {names[1]!r} has gone back to before tenant {tenant} came there (generation"
        f" {left.generation}), and does not take its events: run `eventsource-migrate repair`, then"
        " `eventsource-migrate work`, which brings it what it lacks"
    )
