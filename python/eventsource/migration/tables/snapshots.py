"""Snapshots of the source: taking one, and making it safe to use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from eventsource.identifiers import quote_literal
from eventsource.migration.errors import PreflightError
from eventsource.tenant_ids import stored

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.event_table import AnyTable
    from eventsource.tenant_ids import TenantId

#: Cluster and timeline, for messages alone: neither proves that a source has not gone back. The
#: timeline is the one that is written; the last checkpoint's is older for minutes after a failover.
SYSTEM = (
    "(select system_identifier::text from pg_control_system()) || ':' ||"
    " case when not pg_is_in_recovery() then"
    " (('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer)::text"
    " else '' end"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as PostgreSQL's text form, and the cluster (identifier:timeline) it belongs to,
    with the moment since when that runs."""

    text: str
    system: str
    started: datetime


@dataclass(frozen=True, slots=True)
class Source:
    """The server at a source's address: cluster and timeline, and since when it runs."""

    system: str
    started: datetime


async def source_of(connection: Executor) -> Source:
    """Which server answers."""
    row = await connection.fetchrow(
        f"select {SYSTEM} as system, pg_postmaster_start_time() as started"
    )
    return Source(row["system"], row["started"])


async def take(connection: Executor) -> Snapshot:
    """Take a snapshot. It may not be used before its barrier: see `witnesses.stand`.

    Raises:
        PreflightError: the server is a standby, whose snapshots call running transactions finished.
    """
    row = await connection.fetchrow(
        "select pg_is_in_recovery() as standby, pg_current_snapshot()::text as snapshot,"
        f" {SYSTEM} as system, pg_postmaster_start_time() as started"
    )
    if row["standby"]:
        raise PreflightError(
            [
                "the source server is a standby, whose snapshots miss running transactions; connect"
                " to the primary"
            ]
        )
    return Snapshot(row["snapshot"], row["system"], row["started"])


async def mend_of_foreign_ids(table: AnyTable, tenant_id: TenantId) -> str | None:
    """The statements for rows with ids that this cluster has not given out; None without any.

    A dump brings them along, and no snapshot shows such a row before the cluster has come so far.
    Of this tenant alone: the guard refuses a change of rows of those that have left.
    """
    foreign = await table.connection.fetchval(
        "select coalesce((select transaction_id >= pg_snapshot_xmax(pg_current_snapshot())"
        f" from {table.name} where tenant_id = $1 and transaction_id is not null"
        " order by transaction_id desc limit 1), false)",
        tenant_id,
    )
    if not foreign:
        return None
    return (
        f"alter table {table.name} alter transaction_id drop not null; update {table.name}"
        f" set transaction_id = null where tenant_id = {quote_literal(stored(tenant_id))}"
        " and transaction_id >= pg_snapshot_xmax(pg_current_snapshot())"
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


def below(snapshot: str, transaction_id: int) -> str:
    """What a snapshot (text form) shows of the transactions before one that it shows.

    Those that were in flight are not shown: they may write later, under their old ids.
    """
    listed = snapshot.split(":")[2].split(",")
    running = [each for each in listed if each and int(each) < transaction_id]
    return f"{running[0] if running else transaction_id}:{transaction_id}:{','.join(running)}"
