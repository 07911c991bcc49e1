"""Which events of a feed a reader wants."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.tenant_ids import as_uuid

if TYPE_CHECKING:
    from eventsource.stores.interface import StoredEvent


@dataclass(frozen=True, slots=True)
class Selection:
    """The filters of a read; None does not filter. ``since`` is included, ``until`` is not."""

    tenant_id: UUID | None = None
    event_types: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(
        cls,
        tenant_id: UUID | None,
        event_types: Collection[str] | None,
        since: datetime | None,
        until: datetime | None,
    ) -> Selection:
        """The filters, checked.

        Raises:
            TypeError: ``event_types`` is one string.
            ValueError: a time without a zone.
        """
        if isinstance(event_types, str):
            raise TypeError(f"event_types must be a collection of names: [{event_types!r}]")
        for name, time in (("since", since), ("until", until)):
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{name} is {time}, which names no zone: pass an aware datetime")
        types = None if event_types is None else tuple(event_types)
        # What is hidden of a tenant that arrives is known under its UUID.
        tenant = None if tenant_id is None else as_uuid(tenant_id)
        return cls(tenant, types, since, until)

    @property
    def by_content(self) -> bool:
        """Whether it asks for more than a tenant."""
        return (self.event_types, self.since, self.until) != (None, None, None)

    def takes(self, event: StoredEvent) -> bool:
        """Whether the event is one of those wanted."""
        return (
            (self.tenant_id is None or event.tenant_id == self.tenant_id)
            and (self.event_types is None or event.event_type in self.event_types)
            and (self.since is None or event.timestamp >= self.since)
            and (self.until is None or event.timestamp < self.until)
        )
