"""Events that entered the source after the tenant had moved: its guard was off.

A comparison ends at the source's head of the decision, so it would not see them, at any level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsource.connections import transaction
from eventsource.dataplane import Violation
from eventsource.identifiers import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventsource.migration.event_table import AnyTable

#: A value reads the same in both databases, whatever their defaults are.
_SETTINGS = (
    "select set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO, YMD', true),"
    " set_config('intervalstyle', 'postgres', true), set_config('extra_float_digits', '3', true),"
    " set_config('bytea_output', 'hex', true)"
)


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
        rows = await _read(
            source,
            columns,
            "tenant_id = $1 and global_position > $2 order by global_position limit $3",
            tenant_id, position, limit,
        )  # fmt: skip
        if not rows:
            break
        position = rows[-1]["global_position"]
        ids = [row["event_id"] for row in rows]
        there = await _read(target, columns, "event_id = any ($1::uuid[])", ids)
        same = {(row["event_id"], row["digest"]) for row in there}
        found += [_late(row) for row in rows if (row["event_id"], row["digest"]) not in same]
    return found[:limit]


async def _read(
    table: AnyTable, columns: Sequence[str], condition: str, *arguments: object
) -> list[Any]:
    carried = ", ".join(
        f"{quote_identifier(name)}::text" for name in columns if name != "global_position"
    )
    async with transaction(table.connection) as connection:
        await connection.execute(_SETTINGS)
        found = await connection.fetch(
            "select global_position, event_id, aggregate_type, aggregate_id, version,"
            f" md5(row({carried})::text) as digest from {table.name} where {condition}",
            *arguments,
        )
    return list(found)


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
