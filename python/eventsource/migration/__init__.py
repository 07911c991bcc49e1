"""Moving one tenant's event streams from one PostgreSQL store to another, live."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    ProtocolVersionError,
    RepairNeededError,
    RetryLaterError,
    RoutersNotReadyError,
    RoutingError,
    StoreGoneBackError,
    StoreMismatchError,
    WritePausedError,
)
from eventsource.migration.models import (
    Migration,
    MigrationConfig,
    StoredTenant,
    TenantRouting,
    VerificationLevel,
    VerificationReport,
)
from eventsource.migration.rehearsals import Rehearsal
from eventsource.migration.states import MigrationState, TenantMigrationState

if TYPE_CHECKING:
    from eventsource.migration.consistency import ConsistencyVerifier
    from eventsource.migration.coordinator import MigrationCoordinator
    from eventsource.migration.recovery.report import (
        Change,
        RepairReport,
        StrandedEvent,
        StrandedRow,
    )
    from eventsource.migration.repositories.listing import MigrationCount, MigrationPage
    from eventsource.migration.repositories.router_reports import RouterReport
    from eventsource.migration.repositories.schema import create_schema
    from eventsource.migration.routing.following import TenantSubscription
    from eventsource.migration.routing.mirror import DualWriteInterceptor
    from eventsource.migration.routing.route_hook import PendingRoute, RouteHook
    from eventsource.migration.routing.router import TenantStoreRouter
    from eventsource.migration.routing.transactions import TenantTransaction
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
    "ProtocolVersionError",
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
    "StrandedRow",
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

#: Where the others are. They are loaded when they are used: who only reads a configuration, catches
#: an error or routes need not wait for all that moves a tenant.
_HOMES = {
    "BulkCopier": "steps.bulk_copy",
    "Change": "recovery.report",
    "ConsistencyVerifier": "consistency",
    "DualWriteInterceptor": "routing.mirror",
    "MigrationCoordinator": "coordinator",
    "MigrationCount": "repositories.listing",
    "MigrationPage": "repositories.listing",
    "PendingRoute": "routing.route_hook",
    "PositionMapper": "subscriptions.positions",
    "RepairReport": "recovery.report",
    "RouteHook": "routing.route_hook",
    "RouterReport": "repositories.router_reports",
    "StrandedEvent": "recovery.report",
    "StrandedRow": "recovery.report",
    "SubscriptionMigrator": "subscriptions.migrator",
    "TenantStoreRouter": "routing.router",
    "TenantSubscription": "routing.following",
    "TenantTransaction": "routing.transactions",
    "create_schema": "repositories.schema",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
