"""A tenant goes there and back under live writers, over two servers, and the checker counts."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from eventsource.migration import MigrationConfig, MigrationState
from eventsource.testing import StoreAddress, invariants, read_rows
from eventsource.testing.invariants import History
from tests.support.worlds.two_servers import (
    World,
    acknowledged,
    all_attempts,
    two_servers,
    writing,
)

PROCESSES = 3
LEGS = 4


@pytest.mark.alone
async def test_a_tenant_goes_there_and_back_under_writers_and_nothing_is_lost(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = MigrationConfig(pass_interval_seconds=0.05, keep_way_back=3600)
    directory = tmp_path_factory.mktemp("returns")
    async with two_servers(source_dsn, target_dsn, control_dsn, directory, config) as world:
        await _there_and_back(world)


async def _there_and_back(world: World) -> None:
    tenant, bystander = uuid4(), uuid4()
    await world.seed([tenant, bystander], events=1000)
    configs = [
        world.writer_config(f"writer-{number}", [tenant, bystander], tasks=3, seed=number)
        for number in range(PROCESSES)
    ]
    pauses = []
    with writing(configs) as writers:
        writers[0].focus(tenant)
        await acknowledged(writers, 5, tenant)
        migration = await world.move(tenant)
        for leg in range(LEGS):
            await acknowledged(writers, 10, tenant)
            if leg == 2:
                await world.coordinator._drivers._follower.turn()
            migration = await world.coordinator.return_migration(migration.id)
            assert migration.state is MigrationState.MIGRATED
            pauses.append(migration.cutover_pause_ms)
        await acknowledged(writers, 10, tenant)
    attempts = all_attempts(writers)
    # After an even number of returns it lives where the move had taken it.
    home, other = (world.target, world.source) if LEGS % 2 == 0 else (world.source, world.target)
    own = [attempt for attempt in attempts if attempt.tenant_id == str(tenant)]
    history = History.of(own, world.baseline[tenant])
    rows = await read_rows(home, tenant)
    violations = [
        *invariants.acknowledged_exactly_once(history, rows),
        *invariants.nothing_unattempted(history, rows),
        *invariants.streams_are_whole(rows),
        *invariants.baseline_is_untouched(history, rows, 0),
        *invariants.order_is_kept(history, rows),
    ]
    assert [str(each) for each in violations[:5]] == []
    assert {each.error.split(":")[0] for each in own if each.error} <= {"OptimisticLockError"}
    assert len(history.acknowledged) - len(history.baseline) > 100
    await _the_other_store_has_what_was_there_at_the_last_flip(tenant, home, other)
    bystanders = await world.check_bystander(bystander, attempts)
    bystanders.assert_clean()
    print("fence held in the returns (ms):", pauses)


async def _the_other_store_has_what_was_there_at_the_last_flip(
    tenant: UUID, home: StoreAddress, other: StoreAddress
) -> None:
    """The same rows, but for those since; no event is in either of them twice."""
    here, there = await read_rows(home, tenant), await read_rows(other, tenant)
    for rows in (here, there):
        assert len({row.event_id for row in rows}) == len(rows)
    assert {(row.event_id, row.digest) for row in there} <= {
        (row.event_id, row.digest) for row in here
    }
