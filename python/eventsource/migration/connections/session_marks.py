"""The sessions of a driver, and the end of those that an earlier driver has left.

A driver that is frozen keeps its sessions, and thawed it would go on with its next statement as if
nothing had happened: make a fence row for a migration that was aborted meanwhile, say. The stores
know nothing of leases. So the sessions of a driver carry a mark there, a lock that they all share,
and the next driver ends the marked sessions of others before it does anything.

The order is what counts: mark, then look whether the lease is still held, then end others. Frozen
before the mark, a driver finds the lease lost; frozen after it, its sessions are ended.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: Two sides may be one database. 1 is the control database's, where the data plane alone asks.
_SIDES = {"target": 0, "source": 2}

# A lock of a session that carries one of $1, as texts: of arrays the driver knows these alone, and
# would look up others in the catalog.
_CARRIES = (
    "l.locktype = 'advisory' and l.objsubid = 1"
    " and ((l.classid::bigint << 32) | l.objid::bigint)::text = any ($1::text[])"
)


def driver_mark(migration_id: UUID) -> int:
    """The mark of a driver's own sessions."""
    return data_plane_mark(uuid5(migration_id, "driver"))


def data_plane_mark(migration_id: UUID, side: str = "target") -> int:
    """The mark of the data plane's sessions at a store, as server/claim.rs makes it."""
    low, high = migration_id.int & (1 << 64) - 1, migration_id.int >> 64
    return ((high ^ low) >> 1) & ~3 | _SIDES[side]


async def mark(connection: Executor, mark: int) -> None:
    """Mark the session for as long as it lives."""
    await connection.execute("select pg_advisory_lock_shared($1)", mark)


async def carriers(connection: Executor, mark: int) -> list[int]:
    """The sessions of this database that carry a mark (process ids of the server)."""
    return [
        row["pid"]
        for row in await connection.fetch(
            f"select distinct l.pid from pg_locks l where {_CARRIES} and l.database ="
            " (select oid from pg_database where datname = current_database())",
            [str(mark)],
        )
    ]


async def end(connection: Executor, marks: Collection[int], keep: Collection[int] = ()) -> None:
    """End all sessions of this role in this database that carry one of the marks, except this one
    and those to ``keep`` (process ids of the server)."""
    await connection.execute(
        # The function and not the view, as in server/claim.rs.
        "select pg_terminate_backend(l.pid, 5000)"
        " from pg_locks l, pg_stat_get_activity(l.pid) a"
        f" where {_CARRIES}"
        " and l.pid <> pg_backend_pid() and l.pid::text <> all ($2::text[])"
        " and a.datid = (select oid from pg_database where datname = current_database())"
        " and a.usesysid = (select oid from pg_roles where rolname = current_user)",
        list(map(str, marks)), list(map(str, keep)),
    )  # fmt: skip


#: Session setting by which the target's guard recognises the migrator.
MIGRATOR_SETTING = "eventsource.migration"
