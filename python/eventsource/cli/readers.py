"""Who reads a tenant that is about to move: what `plan` says of its subscriptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.cli.output import amount, duration
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import qualified
from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from eventsource.cli.workspace import Workspace
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.tenant_ids import TenantId

_LEFT = "select count(*) from {table} where tenant_id = $1 and global_position > $2"


@dataclass(frozen=True, slots=True)
class Reader:
    """A subscription with a checkpoint for the tenant, or over all tenants of a store.

    Attributes:
        reads_all: whether the checkpoint is over all tenants.
        events_left: how many of the tenant's events are above it; None at the target, and where
            the layout of the store has no positions of ours.
        saved_at: when the checkpoint was last saved.
    """

    subscription_name: str
    store_id: str
    reads_all: bool
    position: int
    events_left: int | None
    saved_at: datetime


async def of_move(
    at: Workspace, tenant_id: TenantId, source_id: str, target_id: str
) -> list[Reader]:
    """Those that read the tenant at the source, and those that will read it at the target.

    A checkpoint for the tenant alone that the target has is of an earlier stay, and is replaced.
    """
    try:
        checkpoints = await at.checkpoints.list_checkpoints()
    except StoreSchemaError:
        # No table of checkpoints: nobody subscribes with this library.
        return []
    found = []
    for each in checkpoints:
        is_all = each.tenant_id is None
        at_source = each.store_id == source_id and (is_all or each.tenant_id == tenant_id)
        if not at_source and not (is_all and each.store_id == target_id):
            continue
        left = await _left(at.stores[source_id], tenant_id, each.position) if at_source else None
        found.append(
            Reader(
                each.subscription_name, each.store_id, is_all, each.position, left, each.updated_at
            )
        )
    return found


async def _left(store: PostgreSQLEventStore, tenant_id: TenantId, position: int) -> int | None:
    if store.layout is not None:
        return None
    table = qualified(await store.resolve_schema(), store.table_name)
    async with store.pool.acquire() as connection:
        left = await connection.fetchval(_LEFT.format(table=table), as_uuid(tenant_id), position)
    return int(left)


def described(readers: Sequence[Reader], source_id: str, now: datetime) -> str:
    """One line of them."""
    if not readers:
        return f"none has a checkpoint in {source_id!r}"
    return "; ".join(_one(each, source_id, now) for each in readers)


def _one(reader: Reader, source_id: str, now: datetime) -> str:
    name = repr(reader.subscription_name)
    if reader.store_id != source_id:
        return f"{name} reads all tenants of {reader.store_id!r} and gets its new events there"
    what = f"{name} reads {'all tenants' if reader.reads_all else 'this one'}"
    if reader.events_left is None:
        return what
    saved = duration(max(0.0, (now - reader.saved_at).total_seconds()))
    return f"{what}, {amount(reader.events_left)} of its events left, saved {saved} ago"
