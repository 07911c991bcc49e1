"""The fence rows: one per tenant and event table, and the lock that goes with each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.connections import Executor
from eventsource.migration.errors import MigrationError, StoreGoneBackError
from eventsource.migration.event_table import AnyTable
from eventsource.migration.repositories import hidden_rows
from eventsource.migration.tables.proofs import Proof, proof_of

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

#: First key of the advisory lock between guard (shared) and cutover (exclusive); the second is
#: the fence's id. The same number stands in guard.sql.
LOCK_CLASS = 1163281235


#: The guard waits this much longer than the cutover's budget, so that an overrun is the cutover's
#: to resolve and no writer sees an error for it.
GUARD_PATIENCE_SECONDS = 2.0


#: Generation of a target's fence whose migration is being undone.
NO_MIRRORS = -1


@dataclass(frozen=True, slots=True)
class Fence:
    """A tenant's fence row in one event table.

    ``source_head`` is the source's position sequence at the decision; ``moved_to`` the store id,
    which a target keeps from the time when the tenant left it; ``patience_ms`` how long a writer
    waits for a cutover.
    """

    fence_id: int
    role: str
    state: str
    generation: int
    migration_id: UUID
    store_id: str
    moved_to: str | None
    source_head: int | None
    position_offset: int
    patience_ms: int
    decided_pass: int | None
    decided_token: UUID | None
    decided_rows: int | None
    decided_digest: bytes | None
    decided_total: int | None

    @property
    def proof(self) -> Proof | None:
        """What the target must hold; None before the decision, or with one of an older version."""
        return proof_of(
            self.decided_pass,
            self.decided_token,
            self.decided_rows,
            self.decided_digest,
            self.decided_total,
        )


async def read(table: AnyTable, tenant_id: UUID) -> Fence | None:
    """The tenant's fence, or None.

    Raises:
        MigrationError: row-level security may hide it.
    """
    row = await table.connection.fetchrow(
        "select fence_id, role, state, generation, migration_id, store_id, moved_to, source_head,"
        f" position_offset, patience_ms, decided_pass, decided_token, decided_rows, decided_digest,"
        f" decided_total from {table.fences}"
        " where table_name = $1 and tenant_id = $2",
        table.address.table, tenant_id,
    )  # fmt: skip
    if row is None and (problem := await hidden_rows.problem(table.connection, table.fences)):
        raise MigrationError(problem)
    return Fence(**dict(row)) if row is not None else None


async def stray(table: AnyTable) -> str | None:
    """What is wrong when a fence names this table and by its oid is another's, or the reverse."""
    row = await table.connection.fetchrow(
        f"select f.table_name, c.oid::regclass::text as other from {table.fences} f"
        " join pg_class c on c.oid = f.table_oid and c.relkind = 'r'"
        " where (f.table_name = $2) <> (f.table_oid = $1::text::regclass)"
        # A table that was only renamed takes its fences along.
        " and (f.table_name = $2 or exists (select from pg_class n where n.relname = f.table_name"
        " and n.relnamespace = c.relnamespace)) limit 1",
        table.name, table.address.table,
    )  # fmt: skip
    if row is None:
        return None
    return (
        f"a fence names table {row['table_name']!r}, and by its oid it is that of table"
        f" {row['other']}: tables have changed their names; run store.create_schema(), whose error"
        " has the statements that say which one is meant"
    )


async def raise_fence(
    table: AnyTable,
    *,
    tenant_id: UUID,
    migration_id: UUID,
    store_id: str,
    role: str,
    generation: int,
    budget_seconds: float,
) -> Fence:
    """Commit the fence row that the triggers will look for: ``open`` at a source, ``closed`` at a
    target. A finished migration's row is taken over; an unfinished one's is an error.
    """
    patience_ms = int((budget_seconds + GUARD_PATIENCE_SECONDS) * 1000)
    state = "open" if role == "source" else "closed"
    finished = "open" if role == "source" else "moved"
    name = table.fences
    await table.connection.execute(
        f"insert into {name} as f (table_name, tenant_id, role, state, generation, migration_id,"
        " store_id, patience_ms) values ($1, $2, $3, $4, $5, $6, $7, $9)"
        " on conflict (table_name, tenant_id) do update set role = excluded.role,"
        " state = excluded.state, generation = excluded.generation,"
        # Where the tenant went when it left the target is kept, for an abort of its return.
        " migration_id = excluded.migration_id, store_id = excluded.store_id,"
        " moved_to = case excluded.role when 'target' then f.moved_to end,"
        " source_head = null, position_offset = 0, updated_at = now(),"
        " decided_pass = null, decided_token = null, decided_rows = null, decided_digest = null,"
        " decided_total = null,"
        " patience_ms = excluded.patience_ms"
        " where f.migration_id <> excluded.migration_id and f.state = $8"
        " and f.role is distinct from excluded.role",
        table.address.table, tenant_id, role, state, generation, migration_id, store_id, finished,
        patience_ms,
    )  # fmt: skip
    fence = await read(table, tenant_id)
    if fence is None or fence.migration_id != migration_id:
        raise MigrationError(
            f"the fence of tenant {tenant_id} in {table.address.table!r} belongs to another"
            f" migration ({fence.migration_id if fence else 'none'}); abort that one first"
        )
    return fence


async def begin_abort(target: AnyTable, tenant_id: UUID, migration_id: UUID) -> Fence | None:
    """From now on this target cannot be opened; waits for the mirrors that are writing.

    None when the migration has no fence here.

    Raises:
        StoreGoneBackError: the target is open, which only a decision does.
    """
    await target.connection.execute(
        f"update {target.fences} set state = 'aborting', generation = $4, updated_at = now()"
        " where table_name = $1 and tenant_id = $2 and migration_id = $3 and role = 'target'"
        " and state = 'closed'",
        target.address.table, tenant_id, migration_id, NO_MIRRORS,
    )  # fmt: skip
    return await refuse_open(target, tenant_id, migration_id)


async def refuse_open(target: AnyTable, tenant_id: UUID, migration_id: UUID) -> Fence | None:
    """The target's fence of a migration whose source has decided nothing.

    Raises:
        StoreGoneBackError: the target is open, which only a decision does.
    """
    fence = await read(target, tenant_id)
    if fence is None or fence.migration_id != migration_id:
        return None
    if fence.role != "target" or fence.state == "open":
        raise StoreGoneBackError(
            f"tenant {tenant_id} was opened at the target {target.address.table!r}, and only a"
            " decision at the source does that: the source holds none any more, it was restored or"
            " failed over to a moment before; nothing was changed. What was appended at the target"
            " since is there and nowhere else: keep the tenant's writers away from the source, and"
            " compare both sides (`eventsource-migrate verify`)"
        )
    return fence


async def refuse_unless_closed(target: AnyTable, tenant_id: UUID, migration_id: UUID) -> None:
    """Why no pass may write to the target.

    Raises:
        StoreGoneBackError: it is open, or has no fence of this migration any more.
    """
    if await refuse_open(target, tenant_id, migration_id) is None:
        raise StoreGoneBackError(
            f"the target {target.address.table!r} has no fence of migration {migration_id} any"
            " more: it was restored or failed over to a moment before, or the fence was removed by"
            " hand; nothing was changed"
        )


async def is_open(target: AnyTable, tenant_id: UUID, migration_id: UUID) -> bool:
    """Whether a target was opened by this migration."""
    fence = await read(target, tenant_id)
    return (
        fence is not None
        and fence.migration_id == migration_id
        and (fence.role, fence.state) == ("target", "open")
    )


async def end_abort(target: AnyTable, migration: Migration) -> None:
    """Close a target again whose abort came too late: the source's fence has decided."""
    await target.connection.execute(
        f"update {target.fences} set state = 'closed', generation = $4, updated_at = now()"
        " where table_name = $1 and tenant_id = $2 and migration_id = $3 and role = 'target'"
        " and state = 'aborting'",
        target.address.table, migration.tenant_id, migration.id, migration.generation,
    )  # fmt: skip


async def replace_proof(
    source: AnyTable, fence: Fence, generation: int, proof: Proof, offset: int
) -> None:
    """Inside a transaction that holds the lock: name what a repaired target holds.

    Raises:
        MigrationError: the fence is not the one that decided.
    """
    changed = await source.connection.fetchval(
        f"update {source.fences} set decided_pass = $4, decided_token = $5, decided_rows = $6,"
        " decided_digest = $7, decided_total = $8, position_offset = $9, updated_at = now()"
        " where fence_id = $1 and migration_id = $2 and generation = $3 and state = 'moved'"
        " and role = 'source' returning fence_id",
        fence.fence_id, fence.migration_id, generation, proof.last_pass, proof.token, proof.rows,
        proof.digest, proof.total, offset,
    )  # fmt: skip
    if changed is None:
        raise MigrationError("the fence that has decided was changed meanwhile; nothing is opened")


async def lock_exclusively(connection: Executor, fence: Fence) -> None:
    """Inside a transaction: wait until no append is in flight and hold new ones off."""
    await connection.execute("select pg_advisory_xact_lock($1, $2)", LOCK_CLASS, fence.fence_id)
