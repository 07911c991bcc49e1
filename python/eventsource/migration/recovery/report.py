"""What a repair would change, or has changed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsource.migration.journaled.only_there import Row


class ChangeKind(StrEnum):
    """What a change is about."""

    FENCE = "fence"
    ROUTE = "route"
    JOURNAL = "journal"
    MAPPING = "mapping"
    WAY_BACK = "way back"
    RECONCILE = "reconcile"
    CLEAN_AGAIN = "clean again"
    GUARD = "guard"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a repair changes.

    Attributes:
        tenant_id: whose it is; None where it is about all.
        sentence: for the operator.
    """

    kind: ChangeKind
    tenant_id: TenantId | None
    migration_id: UUID | None
    sentence: str


@dataclass(frozen=True, slots=True)
class StrandedEvent:
    """An event that is only where its tenant does not live.

    Attributes:
        kept_in: the store that has it, in the event table or in eventsource_rescued_events.
        conflict: why it cannot be put back; None when it can, or was.
        was_put_back: whether it is where its tenant lives now.
    """

    tenant_id: TenantId
    event_id: UUID
    aggregate_type: str
    aggregate_id: UUID
    version: int
    kept_in: str
    conflict: str | None
    was_put_back: bool = False

    @property
    def called(self) -> str:
        """What a list calls it."""
        return str(self.event_id)


@dataclass(frozen=True, slots=True)
class StrandedRow:
    """A row of another library's table that is not where its tenant lives.

    It was written while its store had gone back, or lost by its source after it was carried, or has
    been changed or deleted since where the tenant lives. It is never put over another one.

    Attributes:
        table, key: which row it is; the key is JSON, with the numbers of the store that the tenant
            was leaving.
        kept_in: the store that has it, in its table or in eventsource_rescued_rows.
        event_id: of a row that is an event, as text.
    """

    tenant_id: TenantId
    table: str
    key: str
    kept_in: str
    event_id: str | None = None

    @classmethod
    def of(cls, row: Row, tenant_id: TenantId, kept_in: str) -> StrandedRow:
        """As it was found."""
        return cls(tenant_id, row.table, row.key, kept_in, row.event_id)

    @property
    def called(self) -> str:
        """What a list calls it."""
        return f"{self.table} {self.key}"


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found.

    Attributes:
        changes: what it changes, in this order.
        notes: what only somebody else can decide.
        stranded: events that are only where their tenant does not live.
        done: whether the changes were made.
        rows: the same of other libraries' tables.
    """

    changes: Sequence[Change]
    notes: Sequence[str]
    stranded: Sequence[StrandedEvent]
    done: bool
    rows: Sequence[StrandedRow] = ()
