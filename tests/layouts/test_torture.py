"""A few seeds of the torture for tables of other libraries, and what a seed is.

``make torture-layouts`` plays as many as it is asked for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsource import _core
from eventsource.failpoints import FAILPOINTS
from tests.faults.playing import Servers
from tests.layouts.torture import play, schedule
from tests.layouts.torture.libraries import LIBRARIES

#: Of each library.
SEEDS = dict.fromkeys(LIBRARIES, (7, 17))


def test_a_schedule_is_derived_from_its_seed_alone() -> None:
    assert schedule.derive("marten", 7) == schedule.derive("marten", 7)
    plans = [schedule.derive(preset, seed) for preset in LIBRARIES for seed in range(60)]
    assert len({str(plan) for plan in plans}) == len(plans)
    assert {act.what for plan in plans for act in plan.acts} == {
        "drive", "kill", "freeze", "crash", "kill_writer", "freeze_writer", "ask", "burst",
        "newcomer",
    }  # fmt: skip
    assert {plan.end for plan in plans} == {"cutover", "abort"}
    assert {plan.in_use for plan in plans} == {True, False}


def test_every_moment_of_a_layouts_tables_is_on_the_way() -> None:
    assert set(schedule.MOMENTS) <= set(FAILPOINTS)
    # Numbers are handed over where a tenant has tables of its own.
    layouts = {name for name in FAILPOINTS if name.startswith("layout.")}
    assert layouts - set(schedule.MOMENTS) == {"layout.numbers.committed"}


@pytest.mark.skipif(not _core.HAS_FAILPOINTS, reason="built without failpoints: `make build`")
@pytest.mark.parametrize(
    ("preset", "seed"),
    [
        pytest.param(
            preset, seed,
            # A driver that dies, another one that loses its connection, a target in use.
            marks=() if (preset, seed) == ("marten", 17) else pytest.mark.thorough,
        )
        for preset, seeds in SEEDS.items()
        for seed in seeds
    ],
)  # fmt: skip
async def test_every_promise_is_kept(tmp_path: Path, preset: str, seed: int) -> None:
    with Servers.start() as servers:
        plan = schedule.derive(preset, seed)
        result = await play.play(servers, tmp_path, plan)
    assert not result.violations, "\n".join([str(plan), *result.violations])
    assert result.acknowledged > 0
