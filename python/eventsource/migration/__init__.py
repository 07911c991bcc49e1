"""Moving one tenant's event streams from one PostgreSQL store to another, live."""

from __future__ import annotations

from eventsource.migration.consistency import (
    ConsistencyVerifier,
    VerificationLevel,
    VerificationReport,
)
from eventsource.migration.coordinator import MigrationCoordinator
from eventsource.migration.errors import (
    Blocker,
    ConsistencyError,
    CutoverTimeoutError,
    DeadlineReachedError,
    InvalidStateTransitionError,
    MigrationAbortedError,
    MigrationAlreadyExistsError,
    MigrationError,
    MigrationNotFoundError,
    MigrationPausedError,
    MissingRowError,
    PositionMappingError,
    PreflightError,
    RepairNeededError,
    RetryLaterError,
    RoutersNotReadyError,
    RoutingError,
    StoreGoneBackError,
    StoreMismatchError,
    WritePausedError,
)
from eventsource.migration.models import Migration, MigrationConfig, StoredTenant, TenantRouting
from eventsource.migration.recovery.report import Change, RepairReport, StrandedEvent
from eventsource.migration.rehearsals import Rehearsal
from eventsource.migration.repositories.listing import MigrationCount, MigrationPage
from eventsource.migration.repositories.router_reports import RouterReport
from eventsource.migration.repositories.schema import create_schema
from eventsource.migration.routing.following import TenantSubscription
from eventsource.migration.routing.mirror import DualWriteInterceptor
from eventsource.migration.routing.route_hook import PendingRoute, RouteHook
from eventsource.migration.routing.router import TenantStoreRouter
from eventsource.migration.routing.transactions import TenantTransaction
from eventsource.migration.states import MigrationState, TenantMigrationState
from eventsource.migration.steps.bulk_copy import BulkCopier
from eventsource.migration.subscriptions.migrator import SubscriptionMigrator
from eventsource.migration.subscriptions.positions import PositionMapper

__all__ = [
    "Blocker",
    "BulkCopier",
    "Change",
    "ConsistencyError",
    "ConsistencyVerifier",
    "CutoverTimeoutError",
    "DeadlineReachedError",
    "DualWriteInterceptor",
    "InvalidStateTransitionError",
    "Migration",
    "MigrationAbortedError",
    "MigrationAlreadyExistsError",
    "MigrationConfig",
    "MigrationCoordinator",
    "MigrationCount",
    "MigrationError",
    "MigrationNotFoundError",
    "MigrationPage",
    "MigrationPausedError",
    "MigrationState",
    "MissingRowError",
    "PendingRoute",
    "PositionMapper",
    "PositionMappingError",
    "PreflightError",
    "Rehearsal",
    "RepairNeededError",
    "RepairReport",
    "RetryLaterError",
    "RouteHook",
    "RouterReport",
    "RoutersNotReadyError",
    "RoutingError",
    "StoreGoneBackError",
    "StoreMismatchError",
    "StoredTenant",
    "StrandedEvent",
    "SubscriptionMigrator",
    "TenantMigrationState",
    "TenantRouting",
    "TenantStoreRouter",
    "TenantSubscription",
    "TenantTransaction",
    "VerificationLevel",
    "VerificationReport",
    "WritePausedError",
    "create_schema",
]
