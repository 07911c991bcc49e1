"""What a way back has beside both tables: a fence row on either side, and a progress row.

Neither row is in force. Their generation is below all others until the target of the move is
opened, which wakes the one there: from then on the tenant's appends are guarded as those of one
that leaves. The one at the store that was left stays asleep until the return's cutover begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.tenant_ids import TenantId, as_uuid, stored

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.tables.snapshots import Snapshot
    from eventsource.migration.tables.witnesses import Witness

#: Generation of a fence that is not in force yet. The same stands in fences.sql and guard.sql.
ASLEEP = -1

#: States of the fence at the store that would be returned to: written to by the way back's own
#: sessions; and closed, with events that its feed goes on leaving out.
STANDBY, RETIRED = "standby", "retired"


async def add_fence(
    table: AnyTable, *, tenant_id: TenantId, migration_id: UUID, store_id: str, role: str,
    patience_ms: int,
) -> None:  # fmt: skip
    """Commit a fence row that is asleep; twice is once."""
    name = table.fences
    await table.connection.execute(
        "with others as (select min(lock_id) as lock_id from"
        f" {name} where table_name = $1 and tenant_id = $2::text),"
        " numbered as materialized (select nextval(pg_get_serial_sequence($8, 'fence_id'))::integer"
        " as id)"
        f" insert into {name} (fence_id, lock_id, table_name, tenant_id, role, state, generation,"
        " migration_id, store_id, patience_ms, mirrored, table_oid) overriding system value"
        " select id, coalesce(lock_id, id), $1, $2::text, $3::text, $4::text, $5::bigint, $6::uuid,"
        " $7::text, $9::integer, false, $10::text::regclass::oid from numbered, others"
        " on conflict (table_name, tenant_id, migration_id, role) do nothing",
        table.address.table, stored(tenant_id), role, "open" if role == "source" else STANDBY,
        ASLEEP, migration_id, store_id, name, patience_ms, table.name,
    )  # fmt: skip


async def add_progress(
    target: AnyTable, *, tenant_id: TenantId, migration_id: UUID, owner: UUID, taken: Snapshot,
    witness: Witness, columns: tuple[str, ...], shape: str,
) -> None:  # fmt: skip
    """The target holds everything that the snapshot shows: that is where its passes begin.

    The block of positions is empty: nothing that goes by it, such as an abort, finds a row.
    """
    await target.connection.execute(
        f"insert into {target.progress} (migration_id, tenant_id, table_name, owner,"
        " position_offset, last_target_position, source_system, pass_number, snapshot,"
        " proven_snapshot, staged, columns, shape, witness_pass, witness_token, source_started)"
        " values ($1, $2, $3, $4, 0, 0, $5, $6, $7, $7, true, $8, $9, $6, $10, $11)",
        migration_id, stored(tenant_id), target.address.table, owner, taken.system,
        witness.pass_number, taken.text, list(columns), shape, witness.token, taken.started,
    )  # fmt: skip


async def wake(table: AnyTable, migration_id: UUID, role: str, generation: int) -> None:
    """Put a fence in force; one that is in force already stays as it is."""
    await table.connection.execute(
        f"update {table.fences} set generation = $3, updated_at = now()"
        f" where migration_id = $1 and role = $2 and generation = {ASLEEP}"
        " and state in ('open', 'standby')",
        migration_id, role, generation,
    )  # fmt: skip


async def rest(table: AnyTable, migration_id: UUID) -> None:
    """Take the fence at the store that would be returned to out of force again."""
    await table.connection.execute(
        f"update {table.fences} set generation = {ASLEEP}, updated_at = now()"
        f" where migration_id = $1 and role = 'target' and state = '{STANDBY}'",
        migration_id,
    )


async def head_of(table: AnyTable, tenant_id: TenantId, decided: int) -> int:
    """Where the tenant's events end at a store that it has left at the position ``decided``.

    That is there, or further on where a way back has carried events since.
    """
    head: int = await table.connection.fetchval(
        f"select greatest($3, max(e.global_position)) from {table.name} e where e.tenant_id = $2"
        f" and exists (select from {table.fences} f where f.table_name = $1"
        " and f.tenant_id = $2::uuid::text and f.role = 'target'"
        f" and f.state in ('{STANDBY}', '{RETIRED}'))",
        table.address.table, as_uuid(tenant_id), decided,
    )  # fmt: skip
    return head


async def decided_head(table: AnyTable, move: UUID) -> int:
    """Where a move has decided that the tenant's own events end here; 0 when nobody knows."""
    head = await table.connection.fetchval(
        f"select source_head from {table.fences} where migration_id = $1 and role = 'source'", move
    )
    return int(head or 0)


async def ways_to(table: AnyTable, tenant_id: TenantId) -> list[UUID]:
    """Ways back to this table, also those that were closed and have carried something."""
    rows = await table.connection.fetch(
        f"select migration_id from {table.fences} where table_name = $1 and tenant_id = $2"
        f" and role = 'target' and state in ('{STANDBY}', '{RETIRED}')",
        table.address.table, stored(tenant_id),
    )  # fmt: skip
    return [row["migration_id"] for row in rows]


async def retire(table: AnyTable, tenant_id: TenantId, migration_id: UUID) -> None:
    """No pass writes there any more; what they have written stays hidden, if there is anything.

    Waits for the transaction of a pass that is writing: it holds the row.
    """
    await table.connection.execute(
        f"update {table.fences} set state = '{RETIRED}', generation = {ASLEEP}, updated_at = now()"
        f" where migration_id = $1 and role = 'target' and state = '{STANDBY}'",
        migration_id,
    )
    await table.connection.execute(
        f"delete from {table.fences} f where f.migration_id = $1 and f.role = 'target'"
        f" and f.state = '{RETIRED}' and not exists (select from {table.name} e"
        " where e.tenant_id = $2 and e.global_position > (select max(m.source_head) from"
        f" {table.fences} m where m.lock_id = f.lock_id and m.role = 'source'"
        " and m.state = 'moved'))",
        migration_id, as_uuid(tenant_id),
    )  # fmt: skip


async def forget_retired(table: AnyTable, tenant_id: TenantId) -> None:
    """The rows that were hidden are gone."""
    await table.connection.execute(
        f"delete from {table.fences} where table_name = $1 and tenant_id = $2"
        f" and role = 'target' and state = '{RETIRED}'",
        table.address.table, stored(tenant_id),
    )  # fmt: skip


async def stands_by(table: AnyTable, tenant_id: TenantId) -> bool:
    """Whether a way back to this table is open for the tenant."""
    return bool(
        await table.connection.fetchval(
            f"select exists (select from {table.fences} where table_name = $1 and tenant_id = $2"
            f" and role = 'target' and state = '{STANDBY}')",
            table.address.table, stored(tenant_id),
        )
    )  # fmt: skip
