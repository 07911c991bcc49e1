"""A store that has forgotten a decision hears of it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from eventsource.migration import event_table
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.tables import brief_locks, fences, guard
from eventsource.migration.tables.progress import ZERO_DIGEST
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.models import StoreIdentity


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

    Appends that are in flight are waited for, and what they wrote stays. The decision names a token
    that no pass has: should the target be put back to before it was opened, it is not opened as it
    is, but gets all that is here.
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
        known = await fences.read(table, left.tenant_id)
        if known is not None:
            await fences.lock_exclusively(connection, known)
        await connection.execute(
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
        await guard.renew(table)

    await brief_locks.transact(connection, write, what=f"for a lock on {table.name}")
