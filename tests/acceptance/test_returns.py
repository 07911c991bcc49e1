"""A tenant goes there and back under live writers, over two servers, and the checker counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from eventsource.migration import (
    Migration,
    MigrationConfig,
    MigrationState,
    PositionMapper,
    SubscriptionMigrator,
)
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from eventsource.stores.interface import StoredEvent
from eventsource.subscriptions import PostgreSQLCheckpointRepository
from eventsource.testing import Attempt, check_returned, read_rows
from eventsource.testing.invariants import Row
from tests.support.waiting import until
from tests.support.worlds.two_servers import (
    DEDICATED,
    SHARED,
    World,
    acknowledged,
    all_attempts,
    two_servers,
    writing,
)

PROCESSES = 3

#: What the writers may have waited beyond the budget of a cutover (seconds).
BEYOND = 0.25

CONFIG = MigrationConfig(pass_interval_seconds=0.05, keep_way_back=3600)


@dataclass(slots=True)
class Projection:
    """Runs through all stays of its tenant, and remembers what it was given."""

    deliveries: Counter[UUID] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)

    async def handle(self, event: StoredEvent) -> None:
        if not self.deliveries[event.event_id]:
            self.order.append(str(event.event_id))
        self.deliveries[event.event_id] += 1


@dataclass(slots=True)
class Checkpointed:
    """A subscription that an operator takes along after each move, and that reads a part each time.

    Attributes:
        handled: events that it has had.
        again: by migration, how many events it has read twice because of it.
        found: where a prediction was wrong, or an event would be skipped.
    """

    world: World
    tenant: UUID
    name: str = "Reports"
    handled: set[str] = field(default_factory=set)
    again: dict[UUID, int] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    @property
    def checkpoints(self) -> PostgreSQLCheckpointRepository:
        return PostgreSQLCheckpointRepository(self.world.control_pool)

    async def begin(self, read: int) -> None:
        rows = await read_rows(self.world.source, self.tenant)
        await self._read(SHARED, rows[:read])

    async def follow(self, migration: Migration, read: int) -> None:
        """Take it along; the plan is made by the same state of the stores."""
        positions = PostgreSQLPositionMappingRepository(self.world.control_pool)
        mapper = PositionMapper(positions, self.world.router.stores)
        migrator = SubscriptionMigrator(mapper, self.checkpoints)
        plan = await migrator.plan_migration(migration.id, self.tenant, [self.name])
        summary = await migrator.migrate_subscriptions(migration.id, self.tenant, [self.name])
        [planned], [result] = plan.planned_migrations, summary.results
        assert result.success, result.error
        if result.target_position != planned.planned_target_position:
            self.found.append(f"{result.target_position}, not {planned.planned_target_position}")
        store = self.world.target if migration.target_store_id == DEDICATED else self.world.source
        rows = await read_rows(store, self.tenant)
        following = [row for row in rows if row.position > (result.target_position or 0)]
        skipped = {row.event_id for row in rows} - self.handled - {r.event_id for r in following}
        again = sum(row.event_id in self.handled for row in following)
        if skipped or again != planned.redelivered_events:
            told = f"predicted {planned.redelivered_events} events again, and it is {again}"
            self.found.append(f"{len(skipped)} skipped; {told}")
        self.again[migration.id] = sum(row.event_id in self.handled for row in following[:read])
        await self._read(migration.target_store_id, following[:read])

    async def _read(self, store_id: str, rows: Sequence[Row]) -> None:
        self.handled.update(row.event_id for row in rows)
        await self.checkpoints.save(self.name, store_id, rows[-1].position, self.tenant)


@dataclass(frozen=True, slots=True)
class Journey:
    """How often a tenant returns, and beside whom.

    Attributes:
        returns: after the move; with an even number it ends where the move has taken it.
        tasks: of each writer process.
        pace, events: appends of each task in a second, and the most events of one. All of them
            together stay below what two busy processors carry over: no return can overtake writers
            that are faster.
        rest: seconds between the returns, in which events come in.
    """

    returns: int
    tasks: int
    pace: float = 10.0
    events: int = 10
    rest: float = 0.0


@pytest.mark.alone
@pytest.mark.parametrize("mapping", ["rows", "offset"])
async def test_a_tenant_goes_there_and_back_under_writers_and_nothing_is_lost(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path, mapping: str
) -> None:
    """There, back, there, back."""
    config = replace(CONFIG, position_mapping=mapping)
    async with two_servers(source_dsn, target_dsn, control_dsn, tmp_path, config) as world:
        await _play(world, Journey(returns=3, tasks=3))
        mapped = await world.control_pool.fetch(
            "select m.returns is not null as returns, m.protocol, count(p) > 0 as has_rows"
            " from tenant_migrations m left join migration_position_mappings p"
            " on p.migration_id = m.id group by m.id"
        )
        # What a return carries has fresh positions, which nothing but rows can say.
        assert all(row["has_rows"] == (row["returns"] or mapping == "rows") for row in mapped)
        needed = replace(CONFIG, position_mapping=mapping).protocol
        assert {row["protocol"] for row in mapped} == {needed}, "a return is as new as its move"


@pytest.mark.alone
@pytest.mark.timeout(900)
async def test_ten_returns_under_many_writers(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path
) -> None:
    async with two_servers(source_dsn, target_dsn, control_dsn, tmp_path, CONFIG) as world:
        await _play(world, Journey(returns=10, tasks=8, pace=3.0, events=3, rest=2.0))


async def _play(world: World, journey: Journey) -> None:
    tenant, bystander, resident = uuid4(), uuid4(), uuid4()
    await world.seed([tenant, bystander], events=1000)
    await _settle_at_the_target(world, resident)
    await PostgreSQLCheckpointRepository(world.control_pool).create_schema()
    configs = [
        world.writer_config(
            f"writer-{n}",
            [tenant, bystander],
            tasks=journey.tasks,
            seed=n,
            appends_per_second=journey.pace,
            max_events=journey.events,
        )
        for n in range(PROCESSES)
    ]
    projection, taken_along = Projection(), Checkpointed(world, tenant)
    await taken_along.begin(read=300)
    running = world.router.subscription(
        "Revenue", taken_along.checkpoints, projection.handle, [tenant], poll_interval=0.05
    )
    task = asyncio.create_task(running.run())
    with writing(configs) as writers:
        writers[0].focus(tenant)
        await acknowledged(writers, 5, tenant)
        migration = await world.move(tenant)
        offset = migration.position_offset or 0
        await taken_along.follow(migration, read=200)
        for leg in range(journey.returns):
            await acknowledged(writers, 10, tenant)
            await asyncio.sleep(journey.rest)
            if leg == 1:
                await world.coordinator._drivers._follower.turn()
            migration = await world.coordinator.return_migration(migration.id)
            assert migration.state is MigrationState.MIGRATED
            assert (migration.cutover_pause_ms or 0) < _longest_allowed() * 1000
            await taken_along.follow(migration, read=200 + leg)
        await acknowledged(writers, 10, tenant)
    attempts = all_attempts(writers)
    home, left = world.source, world.target
    if journey.returns % 2 == 0:
        home, left = left, home
    report = await check_returned(
        home=home, left=left, control_dsn=world.control_dsn, tenant_id=tenant,
        migration_id=migration.id, attempts=attempts, baseline=world.baseline[tenant],
        offset=offset if home is world.target else 0,
    )  # fmt: skip
    report.assert_clean()
    assert set(report.failed_appends) <= {"OptimisticLockError"}
    assert report.acknowledged > 100
    assert report.written_at_target > 0
    own = [each for each in attempts if each.tenant_id == str(tenant) and each.latency]
    assert max(each.latency or 0.0 for each in own) < _longest_allowed()
    await _the_report_says_so(world, migration, taken_along, max(each.latency or 0 for each in own))
    await _others_are_untouched(world, bystander, resident, attempts)
    await _everything_was_delivered(projection, await read_rows(home, tenant))
    running.stop()
    await asyncio.wait_for(task, 10)
    assert taken_along.found == []


async def _the_report_says_so(
    world: World, last: Migration, subscription: Checkpointed, longest: float
) -> None:
    """What writers have waited and what was delivered twice, for each step.

    Args:
        longest: the longest append that the writers have seen themselves (seconds).
    """
    steps = (await world.coordinator.report(last.id))["there_and_back"]
    appends = {UUID(each["id"]): each["longest_append_ms"] for each in steps}
    assert appends.keys() == subscription.again.keys()
    assert all(0 < each <= longest * 1000 for each in appends.values())
    for migration_id, again in subscription.again.items():
        document = await world.coordinator.report(migration_id, subscription.checkpoints)
        [redelivered] = document["redelivery"]
        assert redelivered["so_far"] == again, redelivered


def _longest_allowed() -> float:
    return CONFIG.cutover_timeout_seconds + BEYOND


async def _settle_at_the_target(world: World, resident: UUID) -> None:
    """Another tenant lives where the moved one arrives, and is never asked about."""
    store = world.target_store
    await store.pool.execute(
        f"insert into {store.table} (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
        " version, timestamp, actor_id, payload, metadata)"
        " select gen_random_uuid(), md5(($1::uuid)::text || n % 20)::uuid, 'Past',"
        " 'acceptance.Past', $1, n / 20 + 1, now(), null, '{}', '{}'"
        " from generate_series(0, 199) as n order by n",
        resident,
    )
    world.baseline[resident] = await read_rows(world.target, resident)


async def _others_are_untouched(
    world: World, bystander: UUID, resident: UUID, attempts: Sequence[Attempt]
) -> None:
    """I8: every row where it was, of those who share a table with the tenant here and there."""
    (await world.check_bystander(bystander, attempts)).assert_clean()
    here = {row.event_id: row for row in await read_rows(world.source, bystander)}
    assert [here[row.event_id] for row in world.baseline[bystander]] == world.baseline[bystander]
    assert await read_rows(world.target, resident) == world.baseline[resident]


async def _everything_was_delivered(projection: Projection, rows: Sequence[Row]) -> None:
    """Once each, and each stream in its order."""
    wanted = {UUID(row.event_id) for row in rows}

    async def complete() -> bool:
        return wanted <= projection.deliveries.keys()

    await until(complete, "every event")
    assert projection.deliveries.total() == len(wanted)
    place = {event_id: place for place, event_id in enumerate(projection.order)}
    streams: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        streams.setdefault(row.stream, []).append(place[row.event_id])
    assert all(places == sorted(places) for places in streams.values())
