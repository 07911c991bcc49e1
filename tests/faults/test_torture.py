"""Two seeds of the torture, and what a seed is; ``make torture`` plays as many as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsource import _core
from tests.faults import schedule, torture
from tests.faults.playing import Servers


def test_a_schedule_is_derived_from_its_seed_alone() -> None:
    assert schedule.derive(7) == schedule.derive(7)
    plans = [schedule.derive(seed) for seed in range(200)]
    assert len({str(plan) for plan in plans}) == 200
    acts = {act.what for plan in plans for act in plan.acts}
    assert acts == {
        "drive", "kill", "freeze", "crash", "kill_writer", "freeze_writer", "ask", "lock_out",
        "misconfigure",
    }  # fmt: skip
    then = {tuple(part.step for part in plan.then) for plan in plans}
    assert {(), ("return",), ("return", "return"), ("close", "cleanup")} <= then
    assert not any(plan.then for plan in plans if plan.end == "abort")


def test_databases_that_go_back_are_in_some_schedules_with_and_without_a_way_back() -> None:
    struck = [plan for plan in map(schedule.derive, range(400)) if plan.strike is not None]
    assert 40 < len(struck) < 120
    sides = {plan.strike.sides for plan in struck if plan.strike}
    assert {("source",), ("target",), ("control",), ("source", "control")} <= sides
    assert {plan.strike.how for plan in struck if plan.strike} == {"restored", "failed over"}
    for plan in struck:
        assert plan.strike is not None
        assert 0 <= plan.strike.back_to < plan.strike.at <= len(plan.acts)
        assert plan.then == ()
    kept = [plan for plan in struck if plan.config.get("keep_way_back") != 0]
    assert 0.3 < len(kept) / len(struck) < 0.7


@pytest.mark.skipif(not _core.HAS_FAILPOINTS, reason="built without failpoints: `make build`")
@pytest.mark.parametrize("seed", [3, 13])
async def test_every_promise_is_kept(tmp_path: Path, seed: int) -> None:
    with Servers.start() as servers:
        async with torture.databases(servers) as dsns:
            result = await torture.play(servers, dsns, tmp_path, schedule.derive(seed))
    assert not result.violations, "\n".join([str(result.schedule), *result.violations])
    assert result.acknowledged > 0
