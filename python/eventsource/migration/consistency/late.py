"""Events that entered the source after the tenant had moved: its guard was off.

A comparison ends at the source's head of the decision, so it would not see them, at any level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsource.dataplane import Violation
from eventsource.migration.consistency import by_event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventsource.migration.event_table import AnyTable


async def written_since(
    source: AnyTable,
    target: AnyTable,
    tenant_id: UUID,
    head: int,
    columns: Sequence[str],
    limit: int,
) -> list[Violation]:
    """Up to ``limit`` events of the tenant above ``head`` that the target does not hold as well."""
    found: list[Violation] = []
    position = head
    while len(found) < limit:
        rows = await by_event.read(
            source,
            columns,
            "tenant_id = $1 and global_position > $2 order by global_position limit $3",
            tenant_id, position, limit,
        )  # fmt: skip
        if not rows:
            break
        position = rows[-1]["global_position"]
        ids = [row["event_id"] for row in rows]
        there = await by_event.read(target, columns, "event_id = any ($1::uuid[])", ids)
        same = {(row["event_id"], row["digest"]) for row in there}
        found += [_late(row) for row in rows if (row["event_id"], row["digest"]) not in same]
    return found[:limit]


def _late(row: Any) -> Violation:
    return Violation(
        "late",
        row["aggregate_type"],
        row["aggregate_id"],
        row["version"],
        row["global_position"],
        row["event_id"],
        None,
        "written at the source after the tenant had moved: its guard was off",
    )
