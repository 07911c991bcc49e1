"""How the rate of a copy answers to the load of its source."""

from __future__ import annotations

from itertools import pairwise

import pytest

from eventsource.migration.driver.slowdown import FLOOR, SETTLING, STEPS, Load, Slowdown

CALM = Load(commit_ms=5.0, active_sessions=3.0)
BUSY = Load(commit_ms=30.0, active_sessions=3.0)
SPEED = 8000.0


def made(before: Load = CALM) -> Slowdown:
    return Slowdown.beyond([before], 2.0)


def observe(slowdown: Slowdown, load: Load, looks: int = 1, limit: float | None = None) -> None:
    for _ in range(looks):
        slowdown.observe(load, min(SPEED, slowdown.rate or SPEED), limit)


def test_a_calm_source_is_copied_at_full_speed() -> None:
    slowdown = made()
    observe(slowdown, CALM, looks=100)
    assert (slowdown.rate, slowdown.reason) == (None, None)


def test_the_rate_is_halved_and_time_is_given_for_that_to_be_seen() -> None:
    slowdown = made()
    observe(slowdown, BUSY)
    assert slowdown.rate == SPEED / 2
    assert slowdown.reason == "a commit takes 30.0 ms (5.0 before the copy)"
    observe(slowdown, BUSY, looks=SETTLING)
    assert slowdown.rate == SPEED / 2
    observe(slowdown, BUSY)
    assert slowdown.rate == SPEED / 4


def test_a_rate_above_the_speed_of_the_copy_is_halved_from_that_speed() -> None:
    slowdown = made()
    slowdown.rate = 100_000.0
    slowdown.observe(BUSY, 3000.0, None)
    assert slowdown.rate == 1500.0


def test_the_copy_goes_on_however_busy_the_source_is() -> None:
    slowdown = made()
    observe(slowdown, BUSY, looks=200)
    assert slowdown.rate == FLOOR


def test_the_floor_is_not_above_the_limit() -> None:
    slowdown = made()
    observe(slowdown, BUSY, looks=200, limit=20.0)
    assert slowdown.rate == 20.0


def test_the_rate_rises_in_even_steps_to_full_speed_and_is_free_then() -> None:
    slowdown = made()
    observe(slowdown, BUSY)
    observe(slowdown, CALM, looks=SETTLING)
    rates = []
    while slowdown.rate is not None:
        observe(slowdown, CALM)
        rates.append(slowdown.rate)
    rising = [rate for rate in rates if rate is not None]
    steps = [after - before for before, after in pairwise(rising)]
    assert steps == pytest.approx([SPEED / STEPS] * len(steps))
    assert len(rates) == pytest.approx(STEPS / 2, abs=1)


def test_full_speed_is_the_limit_where_there_is_one() -> None:
    slowdown = made()
    observe(slowdown, BUSY, limit=1000.0)
    assert slowdown.rate == 500.0
    observe(slowdown, CALM, looks=SETTLING + STEPS // 2 - 1, limit=1000.0)
    assert slowdown.rate == pytest.approx(1000.0 - 1000.0 / STEPS)
    observe(slowdown, CALM, limit=1000.0)
    assert slowdown.rate is None


def test_a_copy_that_was_never_seen_to_move_gets_the_floor_and_is_freed_again() -> None:
    slowdown = made()
    slowdown.observe(BUSY, 0.0, None)
    assert slowdown.rate == FLOOR
    for _ in range(SETTLING + 1):
        slowdown.observe(CALM, 0.0, None)
    assert slowdown.rate is None


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (Load(active_sessions=9.0), "active sessions: 9 (3 before the copy)"),
        (Load(replica_lag_mb=40.0), "a replica is 40 MB behind (1 before the copy)"),
    ],
)
def test_each_figure_can_be_the_reason(load: Load, told: str) -> None:
    slowdown = made(Load(5.0, 3.0, 1.0))
    observe(slowdown, load)
    assert slowdown.reason == told


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(), id="nothing can be seen"),
        pytest.param(Load(10.0, 6.0), id="twice as much is borne"),
        pytest.param(Load(replica_lag_mb=1000.0), id="a replica that was not there before"),
    ],
)
def test_what_is_borne_or_not_known_is_no_trouble(load: Load) -> None:
    slowdown = made()
    observe(slowdown, load, looks=10)
    assert slowdown.rate is None


@pytest.mark.parametrize("load", [Load(2.0), Load(active_sessions=4.0), Load(replica_lag_mb=16.0)])
def test_next_to_nothing_is_no_trouble_however_much_less_it_was_before(load: Load) -> None:
    slowdown = made(Load(0.01, 0.0, 0.0))
    observe(slowdown, load, looks=10)
    assert slowdown.rate is None


def test_before_is_the_middle_of_what_was_seen() -> None:
    loads = [Load(1.0, None), Load(90.0, 4.0), Load(3.0, None)]
    assert Slowdown.beyond(loads, 2.0).before == Load(3.0, 4.0)
