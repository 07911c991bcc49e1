"""Which checkpoints a moved tenant's subscriptions get, and what the plan says beforehand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from eventsource.migration.errors import InvalidStateTransitionError, PositionMappingError
from eventsource.migration.models import Migration
from eventsource.migration.states import MigrationState
from eventsource.migration.subscriptions.migrator import SubscriptionMigrator
from eventsource.migration.subscriptions.plan import PlannedMigration
from eventsource.migration.subscriptions.positions import PositionMapper
from eventsource.subscriptions import InMemoryCheckpointRepository
from eventsource.tenant_ids import as_uuid
from tests.support.mapping_in_memory import MappingInMemory, migration_record

OFFSET, FENCE = 100, 20
TENANT_AT_SOURCE = (2, 5, 9, 14, 18)


class Moved:
    """A migrated tenant with five events and a fence two positions above the last."""

    def __init__(
        self,
        state: MigrationState = MigrationState.MIGRATED,
        completed_at: datetime | None = None,
    ) -> None:
        decided = state is MigrationState.MIGRATED
        self.record = migration_record(
            state=state, position_offset=OFFSET, fence_position=FENCE if decided else None,
            completed_at=completed_at,
        )  # fmt: skip
        self.mapping = MappingInMemory(self.record, {p: p + OFFSET for p in TENANT_AT_SOURCE})
        self.checkpoints = InMemoryCheckpointRepository()
        self.migrator = SubscriptionMigrator(
            position_mapper=PositionMapper(self.mapping), checkpoint_repo=self.checkpoints
        )
        self.tenant = as_uuid(self.record.tenant_id)

    async def plan(self, name: str = "orders") -> Any:
        plan = await self.migrator.plan_migration(self.record.id, self.tenant, [name])
        [planned] = plan.planned_migrations
        return planned

    async def migrate(self, *names: str, operator: str | None = None) -> Any:
        return await self.migrator.migrate_subscriptions(
            self.record.id, self.tenant, list(names) or ["orders"], operator=operator
        )

    async def target_position(self, name: str = "orders") -> int | None:
        kept = await self.checkpoints.get(name, "dedicated", self.tenant)
        return kept.position if kept else None


@pytest.fixture
def moved() -> Moved:
    return Moved()


async def test_a_checkpoint_between_two_events_is_carried_exactly(moved: Moved) -> None:
    await moved.checkpoints.save("orders", "shared", 7, moved.tenant)
    planned = await moved.plan()
    assert (planned.current_position, planned.planned_target_position) == (7, 107)
    assert planned.redelivered_events == 0
    assert "3 of the tenant's events are left in 'shared': stop" in (planned.warning or "")

    summary = await moved.migrate()
    assert summary.all_successful
    assert (summary.successful_count, summary.failed_count) == (1, 0)
    assert summary.results[0].created
    assert await moved.target_position() == 107


async def test_planning_changes_nothing_and_migrating_leaves_the_source_checkpoints(
    moved: Moved,
) -> None:
    await moved.checkpoints.save("orders", "shared", 7, moved.tenant)
    await moved.checkpoints.save("orders", "shared", 4)
    before = await moved.checkpoints.list_checkpoints()
    await moved.plan()
    assert await moved.checkpoints.list_checkpoints() == before
    assert moved.mapping.audited == []
    await moved.migrate()
    after = await moved.checkpoints.list_checkpoints()
    assert [c for c in after if c.store_id == "shared"] == before


async def test_the_tenants_own_checkpoint_is_preferred_over_that_of_all_tenants(
    moved: Moved,
) -> None:
    await moved.checkpoints.save("orders", "shared", 30)
    await moved.checkpoints.save("orders", "shared", 9, moved.tenant)
    assert (await moved.plan()).planned_target_position == 109


async def test_a_shared_subscription_beyond_the_fence_starts_at_the_fence_without_a_warning(
    moved: Moved,
) -> None:
    await moved.checkpoints.save("orders", "shared", 5_000)
    planned = await moved.plan()
    assert planned.planned_target_position == FENCE + OFFSET
    assert (planned.redelivered_events, planned.warning) == (0, None)


async def test_a_shared_subscription_that_lags_is_told_how_many_events_come_twice(
    moved: Moved,
) -> None:
    await moved.checkpoints.save("orders", "shared", 9)
    planned = await moved.plan()
    assert planned.planned_target_position == 109
    assert planned.redelivered_events == 2  # 14 and 18
    assert "lags the cutover by 2 of the tenant's events" in (planned.warning or "")


async def test_a_subscription_without_a_checkpoint_starts_before_the_tenants_first_event(
    moved: Moved,
) -> None:
    planned = await moved.plan("never-ran")
    assert (planned.current_position, planned.planned_target_position) == (0, OFFSET)
    assert planned.redelivered_events == 0
    assert "is the name right?" in (planned.warning or "")
    assert (await moved.migrate("never-ran")).all_successful
    assert await moved.target_position("never-ran") == OFFSET


async def test_running_twice_keeps_a_target_checkpoint_that_has_advanced(moved: Moved) -> None:
    await moved.checkpoints.save("orders", "shared", 9, moved.tenant)
    await moved.migrate()
    await moved.checkpoints.save("orders", "dedicated", 150, moved.tenant)

    again = await moved.migrate()

    assert again.all_successful
    assert not again.results[0].created
    assert again.results[0].target_position == 150
    assert await moved.target_position() == 150


async def test_a_target_checkpoint_that_lags_is_kept_and_what_it_repeats_is_predicted(
    moved: Moved,
) -> None:
    """Moving it forward would skip events for a reader of the target that is on its way."""
    await moved.checkpoints.save("orders", "shared", 18, moved.tenant)
    await moved.checkpoints.save("orders", "dedicated", 105, moved.tenant)
    planned = await moved.plan()
    assert (planned.translated_position, planned.planned_target_position) == (118, 105)
    assert planned.redelivered_events == 3  # 9, 14 and 18
    assert "kept at 105, below 118: 3 events" in (planned.warning or "")
    await moved.migrate()
    assert await moved.target_position() == 105


async def test_a_checkpoint_of_an_earlier_stay_is_not_believed() -> None:
    """The target was made again since, and its positions have begun again: nothing is skipped."""
    moved = Moved(completed_at=datetime.now(UTC) + timedelta(seconds=1))
    await moved.checkpoints.save("orders", "shared", 9, moved.tenant)
    await moved.checkpoints.save("orders", "dedicated", 4_000, moved.tenant)
    planned = await moved.plan()
    assert planned.planned_target_position == 109
    assert planned.redelivered_events == 0
    assert "at 4000 is of an earlier stay" in (planned.warning or "")
    await moved.migrate()
    assert await moved.target_position() == 109


async def test_of_two_at_once_neither_sets_a_reader_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen the checkpoint of an earlier stay; a reader goes on after the first."""
    moved = Moved(completed_at=datetime.now(UTC) + timedelta(seconds=1))
    await moved.checkpoints.save("orders", "shared", 9, moved.tenant)
    await moved.checkpoints.save("orders", "dedicated", 4_000, moved.tenant)
    plan = moved.migrator._plan
    others: list[str] = []

    async def overtaken(migration: Migration, name: str) -> PlannedMigration:
        planned = await plan(migration, name)
        if not others:
            others.append(name)
            await moved.migrate()
            await moved.checkpoints.save("orders", "dedicated", 150, moved.tenant)
        return planned

    monkeypatch.setattr(moved.migrator, "_plan", overtaken)
    [result] = (await moved.migrate()).results
    assert (result.created, result.target_position) == (False, 150)
    assert await moved.target_position() == 150


async def test_a_subscription_that_also_reads_all_tenants_of_the_target_is_warned(
    moved: Moved,
) -> None:
    await moved.checkpoints.save("orders", "shared", 20, moved.tenant)
    await moved.checkpoints.save("orders", "dedicated", 4_000)
    planned = await moved.plan()
    assert planned.planned_target_position == 120
    assert "let it leave this tenant out" in (planned.warning or "")


async def test_before_the_cutover_a_plan_is_provisional_and_migrating_is_refused() -> None:
    moving = Moved(MigrationState.DUAL_WRITE)
    await moving.checkpoints.save("orders", "shared", 9, moving.tenant)
    planned = await moving.plan()
    assert planned.planned_target_position == 109
    assert "provisional: the migration is dual_write" in (planned.warning or "")
    with pytest.raises(InvalidStateTransitionError) as refused:
        await moving.migrate()
    assert refused.value.current == "dual_write"
    assert await moving.target_position() is None
    assert moving.mapping.audited == []


async def test_the_wrong_tenant_is_refused_by_both_calls(moved: Moved) -> None:
    other = uuid4()
    with pytest.raises(PositionMappingError, match=f"not {other}"):
        await moved.migrator.plan_migration(moved.record.id, other, ["orders"])
    with pytest.raises(PositionMappingError, match=f"not {other}"):
        await moved.migrator.migrate_subscriptions(moved.record.id, other, ["orders"])


async def test_one_subscription_that_fails_does_not_keep_the_others(moved: Moved) -> None:
    await moved.checkpoints.save("orders", "shared", 20, moved.tenant)
    await moved.checkpoints.save("damaged", "shared", 5, moved.tenant)
    moved.mapping.mapping[9] = 110  # its true target is 109: only translating 5..8 meets it
    summary = await moved.migrate("damaged", "orders")
    assert not summary.all_successful
    assert (summary.successful_count, summary.failed_count) == (1, 1)
    failed, done = summary.results
    assert (failed.subscription_name, failed.target_position) == ("damaged", None)
    assert (failed.error or "").startswith("PositionMappingError: ")
    assert done.target_position == 120
    assert await moved.target_position("damaged") is None


async def test_the_audit_log_says_who_moved_what(moved: Moved) -> None:
    await moved.checkpoints.save("orders", "shared", 9, moved.tenant)
    await moved.migrate(operator="ada")
    [(event_type, details, operator)] = moved.mapping.audited
    assert (event_type, operator) == ("subscriptions_migrated", "ada")
    assert details == {
        "subscriptions": [
            {
                "name": "orders",
                "source_position": 9,
                "target_position": 109,
                "created": True,
                "redelivered_events": 0,
                "read_with_all": False,
                "target_read_with_all": None,
                "error": None,
            }
        ]
    }


async def test_a_name_given_twice_counts_once_and_a_bare_string_is_not_a_list_of_letters(
    moved: Moved,
) -> None:
    await moved.checkpoints.save("orders", "shared", 9, moved.tenant)
    assert len((await moved.migrate("orders", "orders")).results) == 1
    with pytest.raises(TypeError, match=r"\['orders'\]"):
        await moved.migrator.migrate_subscriptions(moved.record.id, moved.tenant, "orders")
    with pytest.raises(ValueError, match="non-empty"):
        await moved.migrator.plan_migration(moved.record.id, moved.tenant, [""])
