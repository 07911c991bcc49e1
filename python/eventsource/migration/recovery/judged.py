"""What a repair does, step by step, as plain facts."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from eventsource.migration.states import MigrationState
from eventsource.tenant_ids import TenantId


@dataclass(frozen=True, slots=True)
class Decided:
    """The newest decision of a tenant: it lives in ``target`` since ``generation``."""

    tenant_id: TenantId
    migration_id: UUID
    generation: int
    source: str | None
    target: str | None
    target_is_open: bool


@dataclass(frozen=True, slots=True)
class SendOn:
    """A store that has forgotten that the tenant went on from it."""

    decided: Decided
    store_id: str


@dataclass(frozen=True, slots=True)
class Home:
    """What a tenant's route has to say; ``migration_id`` where a store's fence says the same."""

    tenant_id: TenantId
    store_id: str
    generation: int
    migration_id: UUID | None


@dataclass(frozen=True, slots=True)
class Journal:
    """What a migration's row in the journal has to say.

    ``state`` of a missing one is where it begins again, paused; a decision is finished or due.
    ``returns`` is the migration that it has taken back.
    """

    tenant_id: TenantId
    migration_id: UUID
    source: str
    target: str
    generation: int
    state: MigrationState
    is_missing: bool
    returns: UUID | None = None


@dataclass(frozen=True, slots=True)
class Reconcile:
    """An undecided migration whose source has gone back."""

    migration_id: UUID


@dataclass(frozen=True, slots=True)
class CleanAgain:
    """A migration that is over in the journal, and of which a store still has the fence."""

    migration_id: UUID


@dataclass(frozen=True, slots=True)
class KeptWay:
    """What the row of a way back has to say.

    Attributes:
        move: the migration whose way back it is.
        state: as of a :class:`WayBack`.
        old: the store that the tenant would return to, where this is known.
        woken: whether a return had begun, of which nobody knows any more.
    """

    tenant_id: TenantId
    way_id: UUID
    move: UUID
    generation: int
    state: str
    reason: str | None
    home: str | None = None
    old: str | None = None
    woken: bool = False


@dataclass(frozen=True, slots=True)
class ReconcileWay:
    """A way back whose ``home`` has gone back, and whose ``old`` store may have what it lost."""

    tenant_id: TenantId
    way_id: UUID
    move: UUID
    home: str
    old: str


@dataclass(frozen=True, slots=True)
class NameStranded:
    """What was appended to a store that had gone back, and that a driver has sent on since."""

    decided: Decided
    store_id: str


@dataclass(frozen=True, slots=True)
class Guard:
    """A store whose guard is not what its fences say."""

    store_id: str


@dataclass(frozen=True, slots=True)
class ControlPlace:
    """The control database is another place than when its migrations began."""


Step = (
    SendOn
    | NameStranded
    | Home
    | Journal
    | Reconcile
    | CleanAgain
    | KeptWay
    | ReconcileWay
    | Guard
    | ControlPlace
)
