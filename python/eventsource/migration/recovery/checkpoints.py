"""Checkpoints above everything that a store has handed out: it has gone back under its readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration import event_table
from eventsource.migration.event_table import of_store

if TYPE_CHECKING:
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.subscriptions import Checkpoint


@dataclass(frozen=True, slots=True)
class CheckpointAhead:
    """A checkpoint whose reader gets nothing, and skips what the store hands out below it.

    Attributes:
        tenant_id: the only tenant that is read; None for all of them.
        head: the highest position that the store has handed out.
    """

    subscription_name: str
    store_id: str
    tenant_id: UUID | None
    position: int
    head: int

    def __str__(self) -> str:
        whose = f" of tenant {self.tenant_id}" if self.tenant_id is not None else ""
        return (
            f"of subscription {self.subscription_name!r} in store {self.store_id!r}{whose} is at"
            f" {self.position}, and the store has handed out {self.head}: what it hands out up to"
            " there would be skipped. Before the applications go on, save it again at"
            f" {self.head} or below (save(…, force=True))"
        )


async def ahead(
    stores: Mapping[str, PostgreSQLEventStore], checkpoints: Iterable[Checkpoint]
) -> list[CheckpointAhead]:
    """Those of our own tables, store by store; changes nothing."""
    heads: dict[str, int] = {}
    found = []
    for each in checkpoints:
        store = stores.get(each.store_id)
        if store is None:
            continue
        table = await of_store(store)
        if table.layout is not None:
            continue
        if each.store_id not in heads:
            sequence = await event_table.position_sequence(table)
            heads[each.store_id] = await event_table.head(table.connection, sequence)
        head = heads[each.store_id]
        if each.position > head:
            found.append(
                CheckpointAhead(
                    each.subscription_name, each.store_id, each.tenant_id, each.position, head
                )
            )
    return found
