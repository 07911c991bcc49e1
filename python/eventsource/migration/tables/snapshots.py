"""Snapshots of the source: taking one, and making it safe to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.errors import PreflightError
from eventsource.migration.event_table import AnyTable

if TYPE_CHECKING:
    from eventsource.connections import Executor

SOURCE_SYSTEM = (
    "(select system_identifier::text from pg_control_system()) || ':' ||"
    " (select timeline_id::text from pg_control_checkpoint())"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as PostgreSQL's text form, and the cluster (identifier:timeline) it belongs to."""

    text: str
    system: str


async def take(connection: Executor) -> Snapshot:
    """Take a snapshot. It may not be used before :func:`barrier` has returned.

    Raises:
        PreflightError: the server is a standby, whose snapshots call running transactions finished.
    """
    row = await connection.fetchrow(
        "select pg_is_in_recovery() as standby, pg_current_snapshot()::text as snapshot,"
        f" {SOURCE_SYSTEM} as system"
    )
    if row["standby"]:
        raise PreflightError(
            [
                "the source server is a standby, whose snapshots miss running transactions; connect"
                " to the primary"
            ]
        )
    return Snapshot(row["snapshot"], row["system"])


async def barrier(source: AnyTable, migration_id: UUID) -> str:
    """Commit one row at the source, flushed; returns the cluster it went to.

    A crash then cannot take back a transaction the snapshot calls finished, nor give its id to a
    new event. The connection must have ``synchronous_commit = on``, as the driver's have.
    """
    system = await source.connection.fetchval(
        f"insert into {source.barrier} as b (migration_id)"
        " values ($1) on conflict (migration_id) do update set passed_at = now()"
        f" returning {SOURCE_SYSTEM}",
        migration_id,
    )
    return str(system)


async def remove_barrier(source: AnyTable, migration_id: UUID) -> None:
    """Forget the barrier row of a migration that is over."""
    await source.connection.execute(
        f"delete from {source.barrier} where migration_id = $1",
        migration_id,
    )


def not_shown_by(snapshot: str) -> str:
    """The condition for rows of tenant $1 that a snapshot (text form) does not show.

    Not ``not pg_visible_in_snapshot``, which would read everything since the oldest foreign
    transaction began. The ids are literals, so that the planner sees how few rows they are.
    """
    _, following, listed = snapshot.split(":")
    ids = [f"transaction_id >= '{int(following)}'::xid8"]
    ids += [f"transaction_id = '{int(running)}'::xid8" for running in listed.split(",") if running]
    return f"tenant_id = $1 and ({' or '.join(ids)})"
