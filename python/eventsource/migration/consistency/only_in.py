"""Events of a tenant that only one of two stores has, whatever their positions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.consistency import by_event
from eventsource.migration.models import BEFORE_EVERY_POSITION
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

#: Events that are looked for at once.
PORTION = 20_000


async def only_in(
    here: AnyTable,
    there: AnyTable,
    tenant_id: TenantId,
    above: int = BEFORE_EVERY_POSITION,
    up_to: int | None = None,
) -> AsyncIterator[Any]:
    """The tenant's rows (id, stream, version) that only ``here`` has, by position."""
    position = above
    while True:
        rows = await by_event.fetch(
            here,
            f"select global_position, event_id, aggregate_type, aggregate_id, version"
            f" from {here.name} where tenant_id = $1 and global_position > $2"
            " and global_position <= coalesce($3::bigint, 9223372036854775807)"
            " order by global_position limit $4",
            tenant_id, position, up_to, PORTION, timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        if not rows:
            return
        position = rows[-1]["global_position"]
        found = await by_event.fetch(
            there,
            f"select event_id from {there.name} where event_id = any ($1::uuid[])",
            [row["event_id"] for row in rows], timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        known = {row["event_id"] for row in found}
        for row in rows:
            if row["event_id"] not in known:
                yield row
