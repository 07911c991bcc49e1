"""What the move of a tenant's subscriptions will do and what it did, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from eventsource.migration.states import MigrationState
from eventsource.subscriptions.checkpoints import Checkpoint
from eventsource.tenant_ids import TenantId


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    """One subscription: where it stands at the source and where it will start at the target.

    Attributes:
        subscription_name: the subscription.
        current_position: its source checkpoint; 0 when it has none.
        translated_position: the target position that stands for it.
        planned_target_position: where the target checkpoint will be: the translated position, or
            that of a checkpoint that is there already, which is kept.
        redelivered_events: how many events of the tenant the subscription will have got twice when
            it has read both its source (an all-tenants subscription goes on there) and the target.
            It is exact; what the plan expects of the subscription is in the warning.
        warning: what to know before carrying the plan out, or None.
        source_checkpoint: the checkpoint that is translated: the tenant's own, or else the one
            over all tenants; None when there is neither.
        target_checkpoint: the tenant's checkpoint that the target has already, or None.
        replaces: the tenant's checkpoint there from an earlier stay, which is replaced, or None.
        target_of_all: the position of the checkpoint over all tenants of the target, or None.
    """

    subscription_name: str
    current_position: int
    translated_position: int
    planned_target_position: int
    redelivered_events: int
    warning: str | None
    source_checkpoint: Checkpoint | None
    target_checkpoint: Checkpoint | None
    replaces: Checkpoint | None = None
    target_of_all: int | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionMigrationPlan:
    """What migrating the subscriptions now would do. Nothing was changed by making it.

    Attributes:
        state: of the migration; only a plan made when it is ``migrated`` can be carried out.
    """

    migration_id: UUID
    tenant_id: TenantId
    source_store_id: str
    target_store_id: str
    state: MigrationState
    planned_migrations: tuple[PlannedMigration, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every warning, each with the name of its subscription."""
        return tuple(
            f"{planned.subscription_name}: {planned.warning}"
            for planned in self.planned_migrations
            if planned.warning is not None
        )


@dataclass(frozen=True, slots=True)
class SubscriptionMigrationResult:
    """What became of one subscription.

    Attributes:
        source_position: the source checkpoint that was translated; 0 when there was none.
        target_position: the checkpoint that holds at the target, None when it failed.
        created: True when this call made it, False when it was there and was kept.
        redelivered_events: as in the plan.
        error: why it failed, or None.
        read_with_all: whether the source checkpoint was the one over all tenants.
        target_read_with_all: the position of the one over all tenants of the target, or None.
    """

    subscription_name: str
    success: bool
    source_position: int | None
    target_position: int | None
    created: bool
    redelivered_events: int
    warning: str | None
    error: str | None
    read_with_all: bool = False
    target_read_with_all: int | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionMigrationSummary:
    """What became of all of them, in the order in which they were named."""

    migration_id: UUID
    tenant_id: TenantId
    results: tuple[SubscriptionMigrationResult, ...]

    @property
    def successful_count(self) -> int:
        """Subscriptions that have their checkpoint at the target."""
        return sum(result.success for result in self.results)

    @property
    def failed_count(self) -> int:
        """Subscriptions that have not."""
        return len(self.results) - self.successful_count

    @property
    def all_successful(self) -> bool:
        """Whether none failed."""
        return self.failed_count == 0
