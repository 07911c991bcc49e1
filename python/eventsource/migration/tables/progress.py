"""The progress row in the target: what was copied, committed together with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource.declared import as_declared
from eventsource.migration.connections import session_marks, timeouts
from eventsource.migration.connections.transactions import transaction
from eventsource.migration.errors import (
    LeaseLostError,
    MissingRowError,
)
from eventsource.migration.event_table import AnyTable, OwnTable
from eventsource.migration.failures import concerning
from eventsource.migration.tables import fences
from eventsource.migration.tables.proofs import Proof
from eventsource.migration.tables.snapshots import Source
from eventsource.migration.tables.witnesses import Witness
from eventsource.tenant_ids import TenantId, restored, stored

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

#: How long a driver waits for the one before it, in milliseconds: a chunk is committed in less.
CLAIM_LOCK_TIMEOUT_MS = 1000

#: Rows that an abort deletes per transaction, so that none lives long.
ROWS_AT_A_TIME = 20_000

ZERO_DIGEST = bytes(16)

_COLUMNS = (
    "migration_id, tenant_id, owner, position_offset, last_target_position, source_system,"
    " pass_number, previous_snapshot, snapshot, staged, last_transaction_id::text::bigint as"
    " last_transaction_id, last_position, pass_rows, pass_digest, rows_copied, proven_snapshot,"
    " proven_rows, sealed_snapshot, sealed_position, sealed_xid::text as sealed_xid,"
    " columns, shape, witness_pass, witness_token, source_started"
)


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """One migration's progress row.

    ``proven_snapshot`` is the snapshot of the last pass that was copied, mapped and proven: the
    target holds every row visible in it. A pass with ``snapshot`` None ran under the fence. The
    seal (see :mod:`eventsource.migration.consistency.seal`) is the bulk copy's snapshot, its last
    position, and the target's next transaction id when all of it was proven. ``columns`` are those
    that are carried, from the first pass to the last, and ``shape`` is the source's at that time.
    """

    migration_id: UUID
    tenant_id: TenantId
    owner: UUID
    position_offset: int
    last_target_position: int
    source_system: str
    pass_number: int
    previous_snapshot: str | None
    snapshot: str | None
    staged: bool
    last_transaction_id: int | None
    last_position: int
    pass_rows: int
    pass_digest: bytes
    rows_copied: int
    proven_snapshot: str | None
    proven_rows: int
    sealed_snapshot: str | None
    sealed_position: int | None
    sealed_xid: str | None
    columns: list[str] | None
    shape: str | None
    witness_pass: int | None
    witness_token: UUID | None
    source_started: datetime | None

    @property
    def witness(self) -> Witness | None:
        """The barrier that the stored pass has passed."""
        if self.witness_pass is None or self.witness_token is None:
            return None
        return Witness(self.witness_pass, self.witness_token)

    @property
    def proof(self) -> Proof:
        """What the target holds after the stored pass, as a decision names it."""
        assert self.witness is not None
        token, total = self.witness.token, self.proven_rows + self.pass_rows
        return Proof(self.pass_number, token, self.pass_rows, self.pass_digest, total)

    @property
    def carried(self) -> int:
        """Events that the passes have found at the source and made sure of at the target."""
        return self.proven_rows + (self.pass_rows if self.pass_is_open else 0)

    @property
    def is_spoiled(self) -> bool:
        """Whether an abort has begun to delete the rows."""
        return self.pass_rows < 0

    @property
    def is_untouched(self) -> bool:
        """No snapshot was taken yet, so nothing goes by the reserved block."""
        return self.pass_number == 0 and self.snapshot is None

    @property
    def is_way_back(self) -> bool:
        """Of our own tables: a way back has no block of positions, its rows get the next ones."""
        return self.last_target_position == 0

    @property
    def pass_is_open(self) -> bool:
        """A pass with a stored snapshot was begun and not proven: it is resumed, never retaken."""
        return self.snapshot is not None and self.snapshot != self.proven_snapshot


def _of(row: Any) -> CopyProgress:
    return CopyProgress(
        **{**as_declared(CopyProgress, row), "tenant_id": restored(row["tenant_id"])}
    )


async def read(target: AnyTable, migration_id: UUID) -> CopyProgress | None:
    """The progress row, or None before the block of positions is reserved."""
    with concerning("target"):
        row = await target.connection.fetchrow(
            f"select {_COLUMNS} from {target.progress} where migration_id = $1", migration_id
        )
    return _of(row) if row is not None else None


async def read_again(target: AnyTable, migration_id: UUID) -> CopyProgress:
    """The progress row of a pass; raises MissingRowError when somebody has removed it."""
    row = await read(target, migration_id)
    if row is None:
        raise MissingRowError(f"the progress row of migration {migration_id} is gone")
    return row


async def all_of_tenant(target: AnyTable, tenant_id: TenantId) -> list[CopyProgress]:
    """The progress rows of the tenant in this table, newest first."""
    rows = await target.connection.fetch(
        f"select {_COLUMNS} from {target.progress} where table_name = $1 and tenant_id = $2"
        " order by updated_at desc",
        target.address.table, stored(tenant_id),
    )  # fmt: skip
    return [_of(row) for row in rows]


async def of_tenant(target: AnyTable, tenant_id: TenantId) -> CopyProgress | None:
    """The newest progress row of the tenant in this table, or None."""
    return next(iter(await all_of_tenant(target, tenant_id)), None)


async def everything(target: AnyTable) -> list[CopyProgress]:
    """The progress rows of all migrations that arrive in this table, or have arrived."""
    rows = await target.connection.fetch(
        f"select {_COLUMNS} from {target.progress} where table_name = $1", target.address.table
    )
    return [_of(row) for row in rows]


async def claim(target: OwnTable, migration_id: UUID, owner: UUID) -> CopyProgress | None:
    """Become the only owner whose chunks commit; the one before commits nothing from here on.

    Its sessions are ended: one that is frozen in the middle of a chunk would keep its locks, on
    the progress row itself and on the table, until the server's patience is at its end.
    """
    mark = session_marks.data_plane_mark(migration_id)
    while True:
        try:
            async with transaction(target.connection):
                await target.connection.execute(f"set local lock_timeout = {CLAIM_LOCK_TIMEOUT_MS}")
                await target.connection.execute(
                    f"update {target.progress} set owner = $2 where migration_id = $1",
                    migration_id, owner,
                )  # fmt: skip
        except asyncpg.LockNotAvailableError:
            await session_marks.end(target.connection, (mark,))
            continue
        await session_marks.end(target.connection, (mark,))
        return await read(target, migration_id)


def already_there(tenant_id: TenantId, table_name: str) -> str:
    """The sentence for a target that holds rows of the tenant."""
    return (
        f"the target table {table_name!r} already holds events of tenant {tenant_id}; "
        "find out what they are before anything else: rows of a migration that is not over go with"
        " its abort, and after a restore of another database they may be the only ones there are"
    )


async def agree(
    target: AnyTable, migration_id: UUID, columns: Iterable[str], shape: str
) -> CopyProgress | None:
    """Record what is carried from here on; a driver that comes later finds it and keeps to it.

    The row where that is new. Its owner is who has made it: who finds itself there has had nobody
    before it, and need not claim it.
    """
    row = await target.connection.fetchrow(
        f"update {target.progress} set columns = $2, shape = $3"
        f" where migration_id = $1 and shape is null returning {_COLUMNS}",
        migration_id, list(columns), shape,
    )  # fmt: skip
    return _of(row) if row is not None else None


async def begin_pass(
    target: AnyTable,
    before: CopyProgress,
    *,
    owner: UUID,
    snapshot: str | None,
    witness: Witness,
) -> CopyProgress:
    """Store the next pass (its snapshot first of all) before its first row is read.

    Its barrier has been passed.

    Raises:
        LeaseLostError: another owner has begun a pass.
        StoreGoneBackError: the target is not closed for it: see `fences.refuse_unless_closed`.
    """
    row = await target.connection.fetchrow(
        f"update {target.progress} set pass_number = $4, previous_snapshot = proven_snapshot,"
        " snapshot = $5, staged = $6, last_transaction_id = null, last_position = 0,"
        " pass_rows = 0, pass_bytes = 0, pass_inserted = 0, pass_digest = $7,"
        " witness_pass = $4, witness_token = $8, updated_at = now()"
        " where migration_id = $1 and owner = $2 and pass_number = $3"
        f" and exists (select from {target.fences} f where f.migration_id = $1"
        " and f.role = 'target' and f.state in ('closed', 'standby'))"
        f" returning {_COLUMNS}",
        before.migration_id, owner, before.pass_number, witness.pass_number, snapshot,
        before.proven_snapshot is not None, ZERO_DIGEST, witness.token,
    )  # fmt: skip
    if row is None:
        await fences.refuse_unless_closed(target, before.tenant_id, before.migration_id)
        raise LeaseLostError(f"another driver carries migration {before.migration_id} on")
    return _of(row)


async def complete_pass(target: AnyTable, current: CopyProgress, owner: UUID) -> CopyProgress:
    """Record that the pass is proven: the next one starts from its snapshot. A bulk copy is sealed.

    Raises:
        LeaseLostError: another owner is recorded, or a first pass was not read back to its end.
    """
    row = await target.connection.fetchrow(
        f"update {target.progress} set proven_snapshot = snapshot,"
        " sealed_snapshot = case when staged then sealed_snapshot else snapshot end,"
        " sealed_position = case when staged then sealed_position else last_position end,"
        " sealed_xid = case when staged then sealed_xid"
        " else pg_snapshot_xmax(pg_current_snapshot()) end,"
        " proven_rows = proven_rows + pass_rows, updated_at = now()"
        " where migration_id = $1 and owner = $2 and pass_number = $3 and snapshot is not null"
        " and (staged or proven_position = last_position)"
        f" returning {_COLUMNS}",
        current.migration_id, owner, current.pass_number,
    )  # fmt: skip
    if row is None:
        raise LeaseLostError(f"another driver carries migration {current.migration_id} on")
    return _of(row)


async def begin_again(
    target: AnyTable, migration_id: UUID, owner: UUID, carriage: str | None = None
) -> None:
    """Forget every pass: the next one is the first.

    Args:
        carriage: what a layout's move keeps from here on.
    """
    await target.connection.execute(
        f"update {target.progress} set snapshot = null, proven_snapshot = null,"
        " previous_snapshot = null, sealed_snapshot = null, proven_rows = 0, pass_rows = 0,"
        " rows_copied = 0, carriage = coalesce($3::text::jsonb, carriage), updated_at = now()"
        " where migration_id = $1 and owner = $2",
        migration_id, owner, carriage,
    )  # fmt: skip


async def record_source(target: AnyTable, at: CopyProgress, now: Source) -> None:
    """The source was started again, and nothing that is here was lost by it."""
    await target.connection.execute(
        f"update {target.progress} set source_system = $3, source_started = $4"
        " where migration_id = $1 and owner = $2",
        at.migration_id, at.owner, now.system, now.started,
    )  # fmt: skip


async def touch(target: AnyTable, at: CopyProgress) -> None:
    """One commit at the target that changes nothing."""
    await target.connection.execute(
        f"update {target.progress} set updated_at = clock_timestamp()"
        " where migration_id = $1 and owner = $2",
        at.migration_id, at.owner,
    )  # fmt: skip


async def spoil(target: AnyTable, migration_id: UUID) -> None:
    """Before rows are deleted: no decision finds in this row any more what it names."""
    await target.connection.execute(
        f"update {target.progress} set pass_number = pass_number + 1, pass_rows = -1,"
        " updated_at = now() where migration_id = $1",
        migration_id,
    )


async def holds_copied(target: AnyTable, at: CopyProgress) -> bool:
    """Whether the target holds rows of the tenant in the block of its migration."""
    return bool(
        await target.connection.fetchval(
            f"select exists (select from {target.name} e join {target.progress} p"
            " on e.tenant_id = p.tenant_id::uuid and e.global_position > p.position_offset"
            " and e.global_position <= p.last_target_position where p.migration_id = $1)",
            at.migration_id,
        )
    )


async def delete_copied(source: AnyTable, target: OwnTable, migration: Migration) -> None:
    """Delete what a migration that is being aborted has put into its block.

    Portion by portion, so that no transaction lives long, and each in one statement with a look at
    the fence: what an abort found there in the beginning may not hold any more. The source's
    session is used before each: it is gone if the source went back meanwhile, and what that has
    lost has to be kept first.
    """
    while True:
        await source.connection.fetchval("select 1")
        tag = await target.connection.execute(
            f"with aborting as (select from {target.fences} where table_name = $1"
            " and tenant_id = $2::text and migration_id = $3 and role = 'target'"
            " and state = 'aborting' for share)"
            f" delete from {target.name} where global_position in ("
            f"select e.global_position from {target.name} e join {target.progress} p"
            " on p.migration_id = $3 and e.global_position > p.position_offset"
            " and e.global_position <= p.last_target_position"
            " where e.tenant_id = $2::text::uuid order by e.global_position limit $4)"
            " and exists (select from aborting)",
            target.address.table, stored(migration.tenant_id), migration.id, ROWS_AT_A_TIME,
            timeout=timeouts.LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        if tag == "DELETE 0":
            return


async def remove(target: AnyTable, migration_id: UUID) -> None:
    """Forget the progress of an aborted migration."""
    for name in (target.ranges, target.witnesses, target.progress):
        await target.connection.execute(f"delete from {name} where migration_id = $1", migration_id)
