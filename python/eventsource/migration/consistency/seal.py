"""The seal of the bulk copy: what it has proven, and whether that still stands.

Each chunk of the bulk copy was read back and compared. That stays true for as long as nobody
changes a row on either side, and a change leaves a trace that is cheap to look for: the new version
of a row carries the id of a later transaction in its header, and a deleted one is missing from the
count. So a comparison may leave out what is under the seal, and reads only what came after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.event_table import AnyTable
from eventsource.migration.tables.snapshots import not_shown_by
from eventsource.tenant_ids import TenantId, as_uuid

if TYPE_CHECKING:
    from eventsource.migration.tables.progress import CopyProgress

#: Headers hold the lower half of a transaction id. They are compared with the seal's only while
#: the two are so near that their order is beyond doubt.
NEAR = 1_000_000_000

# Both ages count backwards from now. The seal's is asked for once, not for every row.
_CHANGED = "age(e.xmin) <= (select age(($3::text::numeric % 4294967296)::text::xid))"
_NEAR = f"pg_snapshot_xmax(pg_current_snapshot())::text::numeric - $3::text::numeric < {NEAR}"


@dataclass(frozen=True, slots=True)
class Sealed:
    """The tenant's events up to a source position: proven by the bulk copy, untouched since."""

    position: int
    events: int


async def unbroken(
    source: AnyTable,
    target: AnyTable,
    tenant_id: TenantId,
    at: CopyProgress,
) -> Sealed | None:
    """What is under the seal; None when it is broken or that cannot be said.

    An event that was in flight when the seal was made may lie below it: the seal then reaches to
    the event before that one.
    """
    if at.sealed_snapshot is None or at.sealed_xid is None:
        return None
    # In one statement, and so in one snapshot: what was in flight may commit at any moment.
    [here] = await source.connection.fetch(
        "with edge as (select least($2::bigint, (select min(global_position) - 1"
        f" from {source.name} where {not_shown_by(at.sealed_snapshot)})) as position)"
        f" select edge.position, {_NEAR} as near, count(e.global_position) as events,"
        f" count(e.global_position) filter (where {_CHANGED}) as changed"
        f" from edge left join {source.name} e on e.tenant_id = $1"
        " and e.global_position <= edge.position group by edge.position",
        as_uuid(tenant_id), at.sealed_position, at.sealed_snapshot.split(":")[1],
        timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip
    [there] = await target.connection.fetch(
        f"select {_NEAR} as near, count(*) as events, count(*) filter (where {_CHANGED}) as changed"
        f" from {target.name} e where tenant_id = $1 and global_position <= $2",
        as_uuid(tenant_id), here["position"] + at.position_offset, at.sealed_xid,
        timeout=LONG_STATEMENT_SECONDS,
    )  # fmt: skip
    touched = here["changed"] or there["changed"] or here["events"] != there["events"]
    if touched or not (here["near"] and there["near"]):
        return None
    return Sealed(here["position"], here["events"])
