"""The fence rows: one per tenant and event table, and the lock that goes with each."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from eventsource.connections import Executor
from eventsource.migration.errors import MigrationError
from eventsource.migration.event_table import AnyTable
from eventsource.migration.repositories import hidden_rows

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


async def read(table: AnyTable, tenant_id: UUID) -> Fence | None:
    """The tenant's fence, or None.

    Raises:
        MigrationError: row-level security may hide it.
    """
    row = await table.connection.fetchrow(
        "select fence_id, role, state, generation, migration_id, store_id, moved_to, source_head,"
        f" position_offset, patience_ms from {table.fences}"
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


async def refuse_mirrors(table: AnyTable, fence: Fence) -> None:
    """Take the mirrors' permission away; waits for those that are writing."""
    await table.connection.execute(
        f"update {table.fences} set generation = $2 where fence_id = $1",
        fence.fence_id,
        NO_MIRRORS,
    )


async def lock_exclusively(connection: Executor, fence: Fence) -> None:
    """Inside a transaction: wait until no append is in flight and hold new ones off."""
    await connection.execute("select pg_advisory_xact_lock($1, $2)", LOCK_CLASS, fence.fence_id)
