"""The progress row of a target that follows a source which has gone back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.errors import LeaseLostError
from eventsource.migration.tables.progress import ZERO_DIGEST

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.tables.progress import CopyProgress
    from eventsource.migration.tables.snapshots import Source
    from eventsource.migration.tables.witnesses import Witness


async def begin_copy_again(target: AnyTable, at: CopyProgress, *, above: int = 0) -> None:
    """Nothing was carried: the next pass is the bulk copy, with a new snapshot and barrier.

    Args:
        above: the last pass whose barrier the source has.
    """
    await target.connection.execute(
        f"delete from {target.ranges} where migration_id = $1", at.migration_id
    )
    await target.connection.execute(
        f"update {target.progress} set pass_number = greatest(pass_number, $4) + 1,"
        " previous_snapshot = null, snapshot = null, staged = false, last_transaction_id = null,"
        " last_position = 0, pass_rows = 0, pass_bytes = 0, pass_inserted = 0, pass_digest = $3,"
        " rows_copied = 0, proven_snapshot = null, proven_rows = 0, proven_position = 0,"
        " sealed_snapshot = null, sealed_position = null, sealed_xid = null, witness_pass = null,"
        " witness_token = null, source_started = null, updated_at = now()"
        " where migration_id = $1 and owner = $2",
        at.migration_id, at.owner, ZERO_DIGEST, above,
    )  # fmt: skip


async def go_on_from(
    target: AnyTable, at: CopyProgress, witness: Witness, shown: str, proven: int, now: Source
) -> None:
    """The target holds what ``shown`` (a snapshot) shows, ``proven`` rows; nothing is sealed.

    Raises:
        LeaseLostError: another owner is recorded.
    """
    changed = await target.connection.fetchval(
        f"update {target.progress} set pass_number = $3, previous_snapshot = proven_snapshot,"
        " snapshot = $4, proven_snapshot = $4, staged = true, last_transaction_id = null,"
        " last_position = 0, pass_rows = 0, pass_bytes = 0, pass_inserted = 0, pass_digest = $5,"
        " proven_rows = $6, sealed_snapshot = null, sealed_position = null, sealed_xid = null,"
        " witness_pass = $3, witness_token = $7, source_system = $8, source_started = $9,"
        " updated_at = now() where migration_id = $1 and owner = $2 returning pass_number",
        at.migration_id, at.owner, witness.pass_number, shown, ZERO_DIGEST, proven, witness.token,
        now.system, now.started,
    )  # fmt: skip
    if changed is None:
        raise LeaseLostError(f"another driver carries migration {at.migration_id} on")


async def unseal(target: AnyTable, migration_id: UUID) -> None:
    """What the bulk copy has proven was proven in another place: everything is compared again."""
    await target.connection.execute(
        f"update {target.progress} set sealed_snapshot = null, sealed_position = null,"
        " sealed_xid = null where migration_id = $1",
        migration_id,
    )
