"""A tenant goes there and back under live writers, over two servers, and the checker counts."""

from __future__ import annotations

from uuid import uuid4

import pytest

from eventsource.migration import MigrationConfig, MigrationState
from eventsource.testing import check_returned
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
        offset = migration.position_offset or 0
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
    report = await check_returned(
        home=home, left=other, control_dsn=world.control_dsn, tenant_id=tenant,
        migration_id=migration.id, attempts=attempts, baseline=world.baseline[tenant],
        offset=offset if home is world.target else 0,
    )  # fmt: skip
    report.assert_clean()
    assert set(report.failed_appends) <= {"OptimisticLockError"}
    assert report.acknowledged > 100
    assert report.written_at_target > 0
    bystanders = await world.check_bystander(bystander, attempts)
    bystanders.assert_clean()
    print("fence held in the returns (ms):", pauses)
