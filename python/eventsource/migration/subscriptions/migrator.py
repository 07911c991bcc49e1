"""Carrying a tenant's subscriptions over to the store it has moved to.

The migrated checkpoint is a new one, keyed by subscription, target store and tenant. The source
checkpoint stays as it is: a subscription over all tenants still needs it for the others. What a
reader has made at the target since the move is never moved, neither back (it would deliver again)
nor forward (one that is on its way there would skip); so running it twice does nothing the second
time. One that is older than the move was left by an earlier stay of the tenant, when positions
meant something else for it, and is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import asyncpg

from eventsource import failpoints
from eventsource.counts import counted
from eventsource.errors import EventSourceError
from eventsource.migration import failures
from eventsource.migration.errors import InvalidStateTransitionError, PositionMappingError
from eventsource.migration.models import LAST_POSITION, Migration
from eventsource.migration.states import MigrationState
from eventsource.migration.subscriptions.plan import (
    PlannedMigration,
    SubscriptionMigrationPlan,
    SubscriptionMigrationResult,
    SubscriptionMigrationSummary,
)
from eventsource.migration.subscriptions.positions import PositionMapper
from eventsource.migration.subscriptions.redelivered import CARRIED_OVER
from eventsource.subscriptions.checkpoints import Checkpoint, CheckpointRepository
from eventsource.tenant_ids import TenantId, as_uuid, stored

# What fails for one subscription and leaves the others to be tried.
_FAILURES = (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class SubscriptionMigrator:
    """Plans and makes the checkpoints with which subscriptions go on at the target.

    Args:
        position_mapper: translates positions of the migration.
        checkpoint_repo: where the subscriptions keep their checkpoints, old and new.
    """

    def __init__(
        self, position_mapper: PositionMapper, checkpoint_repo: CheckpointRepository
    ) -> None:
        self._mapper = position_mapper
        self._checkpoints = checkpoint_repo

    async def plan_migration(
        self, migration_id: UUID, tenant_id: TenantId, subscription_names: Iterable[str]
    ) -> SubscriptionMigrationPlan:
        """What `migrate_subscriptions` would do now; changes nothing.

        It may be asked before the cutover; then each entry says that it is provisional.

        Raises:
            MigrationNotFoundError: there is no such migration.
            PositionMappingError: the migration moves another tenant, or was rolled back or failed,
                or its mapping cannot translate a position.
        """
        names = _distinct(subscription_names)
        migration = await self._migration_of(migration_id, tenant_id)
        return SubscriptionMigrationPlan(
            migration_id=migration.id,
            tenant_id=migration.tenant_id,
            source_store_id=migration.source_store_id,
            target_store_id=migration.target_store_id,
            state=migration.state,
            planned_migrations=tuple([await self._plan(migration, name) for name in names]),
        )

    async def migrate_subscriptions(
        self,
        migration_id: UUID,
        tenant_id: TenantId,
        subscription_names: Iterable[str],
        *,
        operator: str | None = None,
    ) -> SubscriptionMigrationSummary:
        """Make the target checkpoint of each subscription that has none there.

        One subscription that fails is reported in its result and does not keep the others.

        Args:
            operator: who asks, for the audit log.

        Raises:
            InvalidStateTransitionError: the tenant has not moved (yet).
            MigrationNotFoundError, PositionMappingError: as `plan_migration`.
            ProtocolVersionError: a newer version carries the migration on.
        """
        names = _distinct(subscription_names)
        migration = await self._migration_of(migration_id, tenant_id)
        failures.refuse_newer(migration)
        if migration.state is not MigrationState.MIGRATED:
            # Until the decision the tenant may stay, and a checkpoint made too early would wait
            # for it at the target without end.
            raise InvalidStateTransitionError(
                migration.id, migration.state, "migrate subscriptions before its cutover"
            )
        results = tuple([await self._migrate(migration, name) for name in names])
        summary = SubscriptionMigrationSummary(migration.id, migration.tenant_id, results)
        await self._mapper.repository.audit(
            migration.id, CARRIED_OVER, _audit_details(summary), operator
        )
        return summary

    async def _migration_of(self, migration_id: UUID, tenant_id: TenantId) -> Migration:
        migration = await self._mapper.repository.migration(migration_id)
        if stored(migration.tenant_id) != stored(tenant_id):
            raise PositionMappingError(
                f"migration {migration_id} moves tenant {migration.tenant_id}, not {tenant_id}"
            )
        self.refuse_layout(migration)
        return migration

    def refuse_layout(self, migration: Migration) -> None:
        """Subscriptions read tables of our own, and no other ones.

        Raises:
            PositionMappingError: the migration moves rows of another library's tables.
        """
        if self._mapper.is_of_layout(migration):
            raise PositionMappingError(
                f"store {migration.source_store_id!r} has tables of another library, and no"
                " subscription reads them: the library's own readers begin at the target where you"
                f" set them; `eventsource-migrate report {migration.id}` says how positions differ"
            )

    async def _migrate(self, migration: Migration, name: str) -> SubscriptionMigrationResult:
        planned: PlannedMigration | None = None
        try:
            planned = await self._plan(migration, name)
            await failpoints.reach("subscriptions.planned")
            kept, created = await self._make(migration, planned)
            await failpoints.reach("subscriptions.checkpoint.committed")
        except _FAILURES as error:
            return SubscriptionMigrationResult(
                subscription_name=name,
                success=False,
                source_position=planned.current_position if planned else None,
                target_position=None,
                created=False,
                redelivered_events=0,
                warning=planned.warning if planned else None,
                error=f"{type(error).__name__}: {error}",
            )
        return SubscriptionMigrationResult(
            subscription_name=name,
            success=True,
            source_position=planned.current_position,
            target_position=kept.position,
            created=created,
            redelivered_events=planned.redelivered_events,
            warning=planned.warning,
            error=None,
            read_with_all=_read_with_all(planned),
            target_read_with_all=planned.target_of_all,
        )

    async def _make(
        self, migration: Migration, planned: PlannedMigration
    ) -> tuple[Checkpoint, bool]:
        key = planned.subscription_name, migration.target_store_id, planned.translated_position
        tenant_id = as_uuid(migration.tenant_id)
        if planned.replaces is None:
            # A repository of somebody's own need not know that argument until it is needed.
            return await self._checkpoints.save_if_absent(*key, tenant_id)
        return await self._checkpoints.save_if_absent(*key, tenant_id, over=planned.replaces)

    async def _plan(self, migration: Migration, name: str) -> PlannedMigration:
        source_store, target_store = migration.source_store_id, migration.target_store_id
        tenant_id = as_uuid(migration.tenant_id)
        source = await self._checkpoints.get(name, source_store, tenant_id)
        if source is None:
            source = await self._checkpoints.get(name, source_store)
        target = await self._checkpoints.get(name, target_store, tenant_id)
        target_of_all = await self._checkpoints.get(name, target_store)

        leftover = None
        if target is not None and _is_older(target, migration):
            leftover, target = target, None
        current = source.position if source is not None else 0
        translated = await self._mapper.translate_within(migration, current)
        planned = target.position if target is not None else translated
        waiting = await self._mapper.count_between(
            migration, current, _or_last(migration.fence_position)
        )
        repeated = await self._mapper.count_repeated(migration, current, planned)
        still_to_come = waiting if source is not None and source.tenant_id is None else 0
        # The subscription over all tenants of the target, where its feed is still below the block:
        # what it gives is delivered at the source or from the tenant's checkpoint as well.
        past = 0
        if target_of_all is not None:
            past = await self._mapper.count_repeated(
                migration, LAST_POSITION, target_of_all.position
            )
        remarks = [
            *_about_migration(migration),
            *_about_source(migration, source, waiting),
            *_about_target(target_store, target, translated, repeated),
            *_about_leftover(target_store, leftover),
            *_about_target_of_all(target_store, target_of_all, past),
        ]
        return PlannedMigration(
            subscription_name=name,
            current_position=current,
            translated_position=translated,
            planned_target_position=planned,
            redelivered_events=repeated + still_to_come + past,
            warning="; ".join(remarks) or None,
            source_checkpoint=source,
            target_checkpoint=target,
            replaces=leftover,
            target_of_all=target_of_all.position if target_of_all is not None else None,
        )


def _read_with_all(planned: PlannedMigration) -> bool:
    source = planned.source_checkpoint
    return source is not None and source.tenant_id is None


def _is_older(target: Checkpoint, migration: Migration) -> bool:
    """Whether nobody can have read the tenant there since the move: before it, it was not there."""
    return migration.completed_at is not None and target.updated_at < migration.completed_at


def _or_last(fence_position: int | None) -> int:
    return LAST_POSITION if fence_position is None else fence_position


def _about_migration(migration: Migration) -> list[str]:
    if migration.state is MigrationState.MIGRATED:
        return []
    return [
        f"provisional: the migration is {migration.state} and the source goes on, "
        "plan again after the cutover"
    ]


def _about_source(migration: Migration, source: Checkpoint | None, waiting: int) -> list[str]:
    store = migration.source_store_id
    if source is None:
        of_all = "its event is" if waiting == 1 else f"all {waiting:,} events are"
        return [
            f"it has no checkpoint in {store!r} (is the name right?), so it has handled nothing "
            f"and starts before the tenant's first event; {of_all} delivered"
        ]
    if waiting == 0:
        return []
    if source.tenant_id is None:
        return [
            f"its checkpoint over all tenants of {store!r} lags the cutover by {waiting:,} of the "
            "tenant's events: it still gets them there, and once more at the target; to have "
            "none twice, let it catch up first"
        ]
    are = "is" if waiting == 1 else "are"
    return [
        f"{waiting:,} of the tenant's events {are} left in {store!r}: stop this subscription "
        "there before migrating it, the target delivers them"
    ]


def _about_target(
    store: str, target: Checkpoint | None, translated: int, repeated: int
) -> list[str]:
    if target is None or target.position >= translated:
        return []
    return [
        f"its checkpoint for the tenant in {store!r} is kept at {target.position}, below "
        f"{translated}: {counted(repeated, 'event is', 'events are')} delivered again from there"
    ]


def _about_leftover(store: str, leftover: Checkpoint | None) -> list[str]:
    if leftover is None:
        return []
    return [
        f"its checkpoint for the tenant in {store!r} at {leftover.position} is of an earlier stay"
        " and is replaced"
    ]


def _about_target_of_all(store: str, target_of_all: Checkpoint | None, past: int) -> list[str]:
    if target_of_all is None:
        return []
    carried = f"{counted(past, 'carried event')} and " if past else ""
    return [
        f"it also reads all tenants of {store!r} (checkpoint {target_of_all.position}): that one "
        f"gets the tenant's {carried}new events as well, so let it leave this tenant out"
    ]


def _distinct(subscription_names: Iterable[str]) -> list[str]:
    if isinstance(subscription_names, str):
        raise TypeError(f"subscription_names must be a list: [{subscription_names!r}]")
    names = list(dict.fromkeys(subscription_names))
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("every subscription name must be a non-empty string")
    return names


def _audit_details(summary: SubscriptionMigrationSummary) -> dict[str, object]:
    return {
        "subscriptions": [
            {
                "name": result.subscription_name,
                "source_position": result.source_position,
                "target_position": result.target_position,
                "created": result.created,
                "redelivered_events": result.redelivered_events,
                "read_with_all": result.read_with_all,
                "target_read_with_all": result.target_read_with_all,
                "error": result.error,
            }
            for result in summary.results
        ]
    }
