"""The witnesses at a source: barrier rows that prove that it has not gone back.

A comparison of transaction ids, positions in the log or timelines cannot prove that: all of them
are as expected again once enough was written after a restore. A row with a random token is there
or it is not. Each pass commits one, its progress row at the target names it, and whatever comes
next asks for it in the same statement that does something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.errors import StoreGoneBackError
from eventsource.migration.tables import snapshots

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

#: Barriers of so many passes stay: a target that has gone back by fewer finds its own.
KEPT_PASSES = 1000

#: The pass number of the row that a target has: before every pass.
AT_TARGET = 0

# The header of the row, unless it came here in a dump: that carries the column `xid` and not it.
_OF_THIS_HISTORY = "xmin::text::bigint = (xid::text::numeric % 4294967296)::bigint"


@dataclass(frozen=True, slots=True)
class Witness:
    """Which barrier a pass has passed."""

    pass_number: int
    token: UUID


async def stand(
    source: AnyTable, migration_id: UUID, new: Witness, before: Witness | None, system: str
) -> None:
    """Pass the barrier of a new pass: commit its row, flushed, if the row before is there.

    A crash then cannot take back a transaction the snapshot calls finished, nor give its id to a
    new event. The connection must have ``synchronous_commit = on``, as the driver's have.

    Args:
        before: the barrier that the progress row names; None when no pass has been stored.
        system: the source's cluster and timeline as the progress row has them.

    Raises:
        StoreGoneBackError: this source does not hold it any more.
    """
    stood = await source.connection.fetchval(
        f"with before as (select from {source.witnesses} where migration_id = $1"
        f" and pass_number = $4 and token = $5 and {_OF_THIS_HISTORY}),"
        f" old as (delete from {source.witnesses} where migration_id = $1"
        f" and pass_number < $2::integer - {KEPT_PASSES})"
        f" insert into {source.witnesses} (migration_id, pass_number, token, xid)"
        " select $1, $2::integer, $3, pg_current_xact_id()"
        " where $5::uuid is null or exists (select from before) returning pass_number",
        migration_id, new.pass_number, new.token,
        before.pass_number if before else None, before.token if before else None,
    )  # fmt: skip
    if stood is None:
        assert before is not None
        raise await _gone_back(source, before, system)


async def stands(source: AnyTable, migration_id: UUID, stored: Witness) -> bool:
    """Whether a stored barrier is at this source, of this history; looks and changes nothing."""
    return bool(
        await source.connection.fetchval(
            f"select exists (select from {source.witnesses} where migration_id = $1"
            f" and pass_number = $2 and token = $3 and {_OF_THIS_HISTORY})",
            migration_id, stored.pass_number, stored.token,
        )
    )  # fmt: skip


async def has(source: AnyTable, migration_id: UUID, stored: Witness) -> bool:
    """Whether a stored barrier is here at all, also when it came in a dump."""
    return bool(
        await source.connection.fetchval(
            f"select exists (select from {source.witnesses} where migration_id = $1"
            " and pass_number = $2 and token = $3)",
            migration_id, stored.pass_number, stored.token,
        )
    )  # fmt: skip


async def any_stands(source: AnyTable, migration_id: UUID) -> bool | None:
    """Whether the last barrier that is here is of this history; None when there is none."""
    found: bool | None = await source.connection.fetchval(
        f"select {_OF_THIS_HISTORY} from {source.witnesses} where migration_id = $1"
        f" and pass_number > {AT_TARGET} order by pass_number desc limit 1",
        migration_id,
    )
    return found


async def stand_again(
    source: AnyTable, migration_id: UUID, stored: Witness | None, system: str
) -> None:
    """Pass the barrier of the stored pass once more: all that is committed is on disk then.

    Raises:
        StoreGoneBackError: this source does not hold it any more.
    """
    if stored is None:
        return
    stood = await source.connection.fetchval(
        f"update {source.witnesses} set passed_at = clock_timestamp(), xid = pg_current_xact_id()"
        " where migration_id = $1 and pass_number = $2 and token = $3"
        f" and {_OF_THIS_HISTORY} returning pass_number",
        migration_id, stored.pass_number, stored.token,
    )  # fmt: skip
    if stood is None:
        raise await _gone_back(source, stored, system)


async def _gone_back(source: AnyTable, missing: Witness, system: str) -> StoreGoneBackError:
    now = str(await source.connection.fetchval(f"select {snapshots.SYSTEM}"))
    cluster, _, timeline = now.partition(":")
    began, _, began_on = system.partition(":")
    if cluster != began:
        how = f"it is cluster {cluster} now, and was {began}"
    elif timeline != began_on:
        how = f"it failed over: its timeline is {timeline}, and was {began_on}"
    else:
        how = "it was restored from a backup or a copy of its volume"
    kept = "events" if source.layout is None else "rows"
    return StoreGoneBackError(
        f"the source {source.address.table!r} does not hold the barrier of pass"
        f" {missing.pass_number}, which this migration committed there: it has gone back to a"
        f" moment before ({how}). Nothing was changed, and the migration waits: restore a later"
        " state of the source, or go on from what it holds (`eventsource-migrate repair`), which"
        f" keeps at the target, in the table eventsource_rescued_{kept}, what the source has lost,"
        " as an abort does"
    )


async def stand_at_target(target: AnyTable, migration_id: UUID, *, again: bool = False) -> None:
    """Leave a row by which this place is recognised after `pg_upgrade`, unless there is one.

    Outside of any transaction: a savepoint would give the row another id than the transaction's.
    """
    of_this = f"{target.witnesses} where migration_id = $1 and pass_number = {AT_TARGET}"
    if again:
        await target.connection.execute(f"delete from {of_this}", migration_id)
    await target.connection.execute(
        f"insert into {target.witnesses} (migration_id, pass_number, token, xid)"
        f" select $1, {AT_TARGET}, gen_random_uuid(), pg_current_xact_id()"
        f" where not exists (select from {of_this})",
        migration_id,
    )


async def knows_target(target: AnyTable, migration_id: UUID) -> bool:
    """Whether the row of :func:`stand_at_target` is here and did not come in a dump."""
    return bool(
        await target.connection.fetchval(
            f"select exists (select from {target.witnesses} where migration_id = $1"
            f" and pass_number = {AT_TARGET} and {_OF_THIS_HISTORY})",
            migration_id,
        )
    )


async def highest(source: AnyTable, migration_id: UUID) -> int:
    """The number of the last pass whose barrier is here; 0 when there is none."""
    found = await source.connection.fetchval(
        f"select coalesce(max(pass_number), 0) from {source.witnesses} where migration_id = $1",
        migration_id,
    )
    return int(found)


async def forget(source: AnyTable, migration_id: UUID) -> None:
    """Remove the barriers of a migration that is over."""
    await source.connection.execute(
        f"delete from {source.witnesses} where migration_id = $1", migration_id
    )
