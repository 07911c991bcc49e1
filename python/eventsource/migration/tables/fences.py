"""The fence rows: one per tenant, event table, migration and side, and the lock of each tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.connections import Executor
from eventsource.declared import as_declared
from eventsource.migration.connections.transactions import transaction
from eventsource.migration.errors import MigrationError, StoreGoneBackError
from eventsource.migration.event_table import AnyTable, OwnTable
from eventsource.migration.repositories import hidden_rows
from eventsource.migration.tables.proofs import Proof, proof_of
from eventsource.tenant_ids import TenantId, restored, stored

if TYPE_CHECKING:
    from eventsource.migration.models import Migration, StoreIdentity

#: First key of the advisory lock between guard (shared) and cutover (exclusive); the second is
#: the fence's ``lock_id``. The same number stands in guard.sql.
LOCK_CLASS = 1163281235


#: The guard waits this much longer than the cutover's budget, so that an overrun is the cutover's
#: to resolve and no writer sees an error for it.
GUARD_PATIENCE_SECONDS = 2.0

#: First key of the lock under which a tenant gets another fence in a table.
MAKING_CLASS = 1163281238

#: The order of a tenant's fences, the one that is in force first. The same stands in guard.sql and
#: fences.sql.
NEWEST = "generation desc, case state when 'open' then 2 when 'moved' then 1 else 0 end, role"

IN_FORCE = f"order by {NEWEST} limit 1"

_COLUMNS = (
    "fence_id, lock_id, tenant_id, role, state, generation, migration_id, store_id, moved_to,"
    " source_head, position_offset, patience_ms, decided_pass, decided_token, decided_rows,"
    " decided_digest, decided_total, peer::text as peer, mirrored"
)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fence row of a tenant in one event table.

    ``lock_id`` is the key of the lock that all fences of the tenant there share; ``source_head``
    the source's position sequence at the decision; ``moved_to`` the store that was decided on;
    ``patience_ms`` how long a writer waits for a cutover; ``peer`` which place the other store of
    the migration is, as JSON; ``mirrored`` whether routers may mirror, which nobody does on the way
    back.
    """

    fence_id: int
    lock_id: int
    tenant_id: TenantId
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
    peer: str | None
    mirrored: bool = True

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


def _of(row: Any) -> Fence:
    return Fence(**{**as_declared(Fence, row), "tenant_id": restored(row["tenant_id"])})


async def read(table: AnyTable, tenant_id: TenantId) -> Fence | None:
    """The fence that is in force for the tenant, or None.

    Raises:
        MigrationError: row-level security may hide it.
    """
    return await _one(table, f"tenant_id = $2 {IN_FORCE}", stored(tenant_id))


async def of_tenants(table: AnyTable, tenant_ids: Sequence[TenantId]) -> dict[TenantId, Fence]:
    """The fences that are in force for these tenants, in one query.

    Raises:
        MigrationError: row-level security may hide some.
    """
    rows = await table.connection.fetch(
        f"select distinct on (tenant_id) {_COLUMNS} from {table.fences}"
        " where table_name = $1 and tenant_id = any ($2::text[])"
        f" order by tenant_id, {NEWEST}",
        table.address.table, [stored(each) for each in tenant_ids],
    )  # fmt: skip
    found = {restored(row["tenant_id"]): _of(row) for row in rows}
    if len(found) < len(set(tenant_ids)) and (
        problem := await hidden_rows.problem(table.connection, table.fences)
    ):
        raise MigrationError(problem)
    return found


async def of_migration(table: AnyTable, migration_id: UUID, role: str) -> Fence | None:
    """A migration's own fence on one side, or None; another one may be in force.

    Raises:
        MigrationError: row-level security may hide it.
    """
    return await _one(table, "migration_id = $2 and role = $3", migration_id, role)


async def everything(table: AnyTable) -> list[Fence]:
    """Every fence of the table, oldest generation first.

    Raises:
        MigrationError: row-level security may hide some.
    """
    if problem := await hidden_rows.problem(table.connection, table.fences):
        raise MigrationError(problem)
    rows = await table.connection.fetch(
        f"select {_COLUMNS} from {table.fences} where table_name = $1"
        " order by tenant_id, generation, fence_id",
        table.address.table,
    )
    return [_of(row) for row in rows]


async def _one(table: AnyTable, condition: str, *values: object) -> Fence | None:
    row = await table.connection.fetchrow(
        f"select {_COLUMNS} from {table.fences} where table_name = $1 and {condition}",
        table.address.table, *values,
    )  # fmt: skip
    if row is None and (problem := await hidden_rows.problem(table.connection, table.fences)):
        raise MigrationError(problem)
    return _of(row) if row is not None else None


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
    table: OwnTable,
    *,
    tenant_id: TenantId,
    migration_id: UUID,
    store_id: str,
    role: str,
    generation: int,
    budget_seconds: float,
    peer: StoreIdentity | None = None,
    number: int | None = None,
) -> Fence:
    """Commit the fence row that the triggers will look for: ``open`` at a source, ``closed`` at a
    target. Those of earlier migrations stay; one that is not over is an error.

    Args:
        number: the ``fence_id`` that its triggers go by, of one that was there before.
    """
    patience_ms = int((budget_seconds + GUARD_PATIENCE_SECONDS) * 1000)
    state = "open" if role == "source" else "closed"
    name = table.fences
    async with transaction(table.connection):
        # Two migrations do not find the tenant without a fence at the same time.
        await table.connection.execute(
            "select pg_advisory_xact_lock($1, hashtext($2))",
            MAKING_CLASS, f"{table.name} {tenant_id}",
        )  # fmt: skip
        made = await table.connection.fetchrow(
            f"with others as (select * from {name} where table_name = $1 and tenant_id = $2),"
            f" in_force as (select * from others where migration_id <> $6 {IN_FORCE}),"
            " numbered as materialized (select coalesce($11::integer, nextval("
            "pg_get_serial_sequence($10, 'fence_id'))::integer) as id)"
            f" insert into {name} (fence_id, lock_id, table_name, tenant_id, role, state,"
            " generation, migration_id, store_id, patience_ms, peer) overriding system value"
            " select id, coalesce((select min(lock_id) from others), id), $1, $2, $3::text,"
            " $4::text, $5::bigint, $6::uuid, $7::text, $8::integer, $9::text::jsonb from numbered"
            # A target takes whom it has not got, a source lets go whom it has.
            " where not exists (select from in_force where generation > $5"
            " or not case $3 when 'source' then role = 'target' and state = 'open'"
            " else role = 'source' and state = 'moved' end)"
            " on conflict (table_name, tenant_id, migration_id, role) do nothing"
            f" returning {_COLUMNS}",
            table.address.table, stored(tenant_id), role, state, generation, migration_id, store_id,
            patience_ms, peer.to_json() if peer is not None else None, name, number,
        )  # fmt: skip
    fence = _of(made) if made is not None else await of_migration(table, migration_id, role)
    if fence is None:
        other = await read(table, tenant_id)
        raise MigrationError(
            f"the fence of tenant {tenant_id} in {table.address.table!r} belongs to another"
            f" migration ({other.migration_id if other else 'none'}); abort that one first"
        )
    return fence


async def begin_abort(target: AnyTable, tenant_id: TenantId, migration_id: UUID) -> Fence | None:
    """From now on this target cannot be opened; waits for the mirrors that are writing.

    None when the migration has no fence here.

    Raises:
        StoreGoneBackError: the target is open, which only a decision does.
    """
    await target.connection.execute(
        f"update {target.fences} set state = 'aborting', updated_at = now()"
        " where table_name = $1 and tenant_id = $2 and migration_id = $3 and role = 'target'"
        " and state = 'closed'",
        target.address.table, stored(tenant_id), migration_id,
    )  # fmt: skip
    return await refuse_open(target, tenant_id, migration_id)


async def set_mirrored(target: AnyTable, migration_id: UUID, *, mirrored: bool) -> None:
    """Let mirrors write to this target or not; those that are writing are waited for."""
    await target.connection.execute(
        f"update {target.fences} set mirrored = $3, updated_at = now()"
        " where table_name = $1 and migration_id = $2 and role = 'target'",
        target.address.table, migration_id, mirrored,
    )  # fmt: skip


async def refuse_open(target: AnyTable, tenant_id: TenantId, migration_id: UUID) -> Fence | None:
    """The target's fence of a migration whose source has decided nothing.

    Raises:
        StoreGoneBackError: the target is open, which only a decision does.
    """
    fence = await of_migration(target, migration_id, "target")
    if fence is not None and fence.state == "open":
        raise StoreGoneBackError(
            f"tenant {tenant_id} was opened at the target {target.address.table!r}, and only a"
            " decision at the source does that: the source holds none any more, it was restored or"
            " failed over to a moment before; nothing was changed. What was appended at the target"
            " since is there and nowhere else: keep the tenant's writers away from the source, and"
            " compare both sides (`eventsource-migrate verify`)"
        )
    return fence


async def refuse_unless_closed(target: AnyTable, tenant_id: TenantId, migration_id: UUID) -> None:
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


async def is_open(target: AnyTable, migration_id: UUID) -> bool:
    """Whether a target was opened by this migration."""
    fence = await of_migration(target, migration_id, "target")
    return fence is not None and fence.state == "open"


async def end_abort(target: AnyTable, migration: Migration) -> None:
    """Close a target again whose abort came too late: the source's fence has decided."""
    await target.connection.execute(
        f"update {target.fences} set state = 'closed', updated_at = now()"
        " where table_name = $1 and tenant_id = $2 and migration_id = $3 and role = 'target'"
        " and state = 'aborting'",
        target.address.table, stored(migration.tenant_id), migration.id,
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


def deleting_old_rows(migration_id: UUID) -> str:
    """How rows that a tenant has left in another library's tables go, which no clean-up takes."""
    return (
        "as the owner of the tables delete those rows first that refer to others, in a session"
        f" with `set eventsource.migration = '{migration_id}'`, which its guard lets through"
    )


async def cleaned_at(source: AnyTable, migration_id: UUID) -> datetime | None:
    """When the first old row of a migration went from there in a clean-up, or None."""
    since: datetime | None = await source.connection.fetchval(
        f"select cleaned_at from {source.fences} where migration_id = $1 and role = 'source'",
        migration_id,
    )
    return since


async def refuse_cleaned(source: AnyTable, migration: Migration) -> None:
    """Nothing can be carried again from a source whose old rows are being removed.

    Raises:
        StoreGoneBackError: they are.
    """
    since = await cleaned_at(source, migration.id)
    if since is not None:
        raise StoreGoneBackError(
            f"the target lacks events of tenant {migration.tenant_id} that were decided on, and"
            f" those that {source.address.table!r} held were cleaned up since"
            f" {since:%Y-%m-%d %H:%M} UTC: restore a later state of the target"
        )


async def lock_exclusively(connection: Executor, fence: Fence) -> None:
    """Inside a transaction: wait until no append is in flight and hold new ones off."""
    await connection.execute("select pg_advisory_xact_lock($1, $2)", LOCK_CLASS, fence.lock_id)
