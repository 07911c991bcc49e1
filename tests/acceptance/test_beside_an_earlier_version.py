"""Processes of the version before the way back live beside it, through a move and returns.

A deployment is never upgraded at one moment: the tables first, then one process after the other.
Here it is those that append. What drives migrations works through the extension module, and that of
today does not serve the drivers of then: they are upgraded first, as the limits say.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from eventsource.migration import MigrationConfig, MigrationState
from eventsource.testing import WriterProcess, check_returned
from tests.support import earlier
from tests.support.worlds.two_servers import acknowledged, all_attempts, two_servers

CONFIG = MigrationConfig(pass_interval_seconds=0.05, keep_way_back=3600)

#: What brought the way back.
BROUGHT_BY = "migration/steps/way_back.py"

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process of the earlier version."""
    made = earlier.environment_before(BROUGHT_BY, tmp_path_factory.mktemp("earlier"))
    script = f"import importlib.util as u, eventsource; print(u.find_spec('{_module()}'))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=made, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None", "it has the way back"
    return made


def _module() -> str:
    return "eventsource." + BROUGHT_BY.removesuffix(".py").replace("/", ".")


@pytest.mark.alone
@pytest.mark.parametrize("returns", [1, 2])
async def test_its_writers_append_through_a_move_and_returns(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path,
    environment: dict[str, str], returns: int,
) -> None:  # fmt: skip
    async with two_servers(source_dsn, target_dsn, control_dsn, tmp_path, CONFIG) as world:
        tenant, bystander = uuid4(), uuid4()
        await world.seed([tenant, bystander], events=500)
        configs = [
            world.writer_config(name, [tenant, bystander], tasks=3, seed=seed)
            for seed, name in enumerate(("earlier-1", "earlier-2", "today"))
        ]
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(
                    WriterProcess.start(
                        config, environment=None if config.name == "today" else environment
                    )
                )
                for config in configs
            ]
            writers[0].focus(tenant)
            await acknowledged(writers, 10, tenant)
            moved = migration = await world.move(tenant)
            await acknowledged(writers, 10, tenant)
            for _ in range(returns):
                migration = await world.coordinator.return_migration(migration.id)
                assert migration.state is MigrationState.MIGRATED
                await acknowledged(writers, 10, tenant)
        home, left = (world.source, world.target) if returns == 1 else (world.target, world.source)
        report = await check_returned(
            home=home, left=left, control_dsn=world.control_dsn, tenant_id=tenant,
            migration_id=migration.id, attempts=all_attempts(writers),
            baseline=world.baseline[tenant],
            offset=(moved.position_offset or 0) if home is world.target else 0,
        )  # fmt: skip
        report.assert_clean()
        assert report.written_at_target > 0
        assert set(report.failed_appends) <= {"OptimisticLockError"}
        (await world.check_bystander(bystander, all_attempts(writers))).assert_clean()
        # Only the one of today has said how long its appends took.
        found = await world.coordinator.report(migration.id)
        assert found["cutover"]["routers_that_measured"] == 1
