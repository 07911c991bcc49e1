"""Two seeds of the torture, and what a seed is; ``make torture`` plays as many as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsource import _core
from tests.faults import schedule, torture
from tests.faults.torture import Servers


def test_a_schedule_is_derived_from_its_seed_alone() -> None:
    assert schedule.derive(7) == schedule.derive(7)
    plans = [schedule.derive(seed) for seed in range(200)]
    assert len({str(plan) for plan in plans}) == 200
    acts = {act.what for plan in plans for act in plan.acts}
    assert acts == {"drive", "kill", "freeze", "crash", "kill_writer", "freeze_writer", "ask"}


@pytest.mark.skipif(not _core.HAS_FAILPOINTS, reason="built without failpoints: `make build`")
async def test_every_promise_is_kept(tmp_path: Path) -> None:
    with Servers.start() as servers:
        async with torture.databases(servers) as dsns:
            for seed in (3, 14):
                files = tmp_path / str(seed)
                files.mkdir()
                result = await torture.play(servers, dsns, files, schedule.derive(seed))
                told = "\n".join([str(result.schedule), *result.violations])
                assert not result.violations, told
                assert result.acknowledged > 0
