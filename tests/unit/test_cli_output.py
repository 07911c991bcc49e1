"""What people and programs get to read."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest

from eventsource.cli.demo.result import DemoResult, Latencies, percentile
from eventsource.cli.display import LINE_SECONDS, LineDisplay, Rate, speed
from eventsource.cli.output import Output, columns, duration, grid, localised, painted, to_json
from eventsource.migration import MigrationState
from eventsource.testing import Attempt, Outcome

SOME_ID = UUID(int=7)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("UTC0", "08:33:52+00:00"), ("CET-1", "09:33:52+01:00"), ("EST5", "03:33:52-05:00")],
)
def test_times_of_messages_are_local_with_their_distance_from_utc(
    zone: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        shown = localised(
            "waiting for x, since 2026-11-29 08:33:52 UTC; until 2026-11-29 08:33 UTC"
        )
        assert f"since 2026-11-29 {expected}; until 2026-11-29 {expected[:5]}:00" in shown
        assert str(painted("(since 2026-11-29 08:33:52 UTC)")) == f"(since 2026-11-29 {expected})"
        # A day alone is left, and so is a window's zone.
        assert localised("2026-11-29 UTC, 22:00-05:00 UTC") == "2026-11-29 UTC, 22:00-05:00 UTC"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_json_holds_ids_times_and_states_as_text() -> None:
    document = {
        "id": SOME_ID,
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "state": MigrationState.PAUSED,
        "latencies": Latencies(1.0, 2.0, 3.0),
        "several": (1, None, True),
    }
    assert json.loads(to_json(document)) == {
        "id": str(SOME_ID),
        "at": "2026-01-02T00:00:00+00:00",
        "state": "paused",
        "latencies": {"p99_before": 1.0, "at_cutover": 2.0, "longest": 3.0},
        "several": [1, None, True],
    }


def test_tables_are_aligned_and_have_no_blanks_at_the_end() -> None:
    assert grid(("name", 1), ("left out", None), ("longer name", "x y")) == (
        "name         1\nlonger name  x y"
    )
    assert columns(("a", "b"), [("long", 1), (None, "")]) == "a     b\nlong  1\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_are_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_failure_is_one_line_without_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).fail("code", "no postgresql://me:hush@h/d", 1)
    assert capsys.readouterr().err == "error: no postgresql://me:***@h/d\n"
    Output(as_json=True).fail("code", "no postgresql://me:hush@h/d", 1, problems=("a",))
    assert json.loads(capsys.readouterr().out)["error"] == {
        "code": "code",
        "message": "no postgresql://me:***@h/d",
        "exit_code": 1,
        "next": [],
        "problems": ["a"],
    }


def test_the_rate_is_that_of_the_last_seconds_and_shows_a_stall() -> None:
    rate = Rate()
    assert rate.add(0, 0.0) is None
    assert rate.add(1000, 1.0) == pytest.approx(1000)
    assert rate.add(1000, 3.0) == pytest.approx(1000 / 3)
    rate.add(2000, 20.0)
    rate.add(3000, 21.0)
    assert rate.add(4000, 26.5) == pytest.approx(1000 / 5.5)


def test_the_time_left_is_told_only_when_there_is_a_rate() -> None:
    assert speed(None, 10) == ""
    assert speed(2.0, 0) == ""
    assert speed(50.0, 1000) == "50/s  ETA 20 s"


def test_plain_progress_is_a_line_every_two_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("eventsource.cli.display.time.monotonic", lambda: now)
    display = LineDisplay(Output(as_json=False))
    for step in range(9):
        now = 100.0 + step * LINE_SECONDS / 4
        display.progress("copy", step * 100, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("%")[0].split()[-1] for line in lines] == ["0.0", "40.0", "80.0"]
    assert lines[1] == "copy       40.0 %  400 of 1,000 events  200/s  ETA 3.0 s"


def attempt(invoked: float, returned: float | None, outcome: Outcome = Outcome.OK) -> Attempt:
    return Attempt(
        "w", 0, str(SOME_ID), "T", str(SOME_ID), 0, ("e",), "router", invoked, outcome, returned
    )


def test_latencies_tell_appends_before_the_cutover_from_those_it_held_up() -> None:
    attempts = [
        *(attempt(n, n + 0.010) for n in range(98)),
        attempt(98.0, 98.2),
        attempt(98.5, 99.0),
        attempt(100.0, 100.3),
        attempt(102.0, 103.0),
        attempt(100.0, 109.0, Outcome.REFUSED),
        attempt(100.0, None, Outcome.UNKNOWN),
    ]
    found = Latencies.of(attempts, asked=99.5, done=101.0)
    assert found.p99_before == pytest.approx(200)
    assert found.at_cutover == pytest.approx(300)
    assert found.longest == pytest.approx(1000)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0], 99) == 1.0
    assert percentile([float(n) for n in range(1, 101)], 99) == 99.0


@pytest.mark.parametrize(
    "broken",
    [
        {"lost": 1},
        {"violations": ("I3",)},
        {"others_untouched": False},
        {"skipped": 1},
        {"redelivered": 1},
    ],
)
def test_a_demonstration_is_sound_only_when_every_promise_was_kept(
    broken: dict[str, object],
) -> None:
    numbers: dict[str, object] = {
        "events_copied": 10,
        "copy_seconds": 1.0,
        "events_per_second": 10.0,
        "pause_ms": None,
        "latencies": Latencies(1, 1, 1),
        "acknowledged": 10,
        "found": 10,
        "lost": 0,
        "violations": (),
        "others_untouched": True,
        "others_appended": 1,
        "others_violations": (),
        "skipped": 0,
        "redelivered": 0,
        "redelivered_predicted": 0,
        "followed": 5,
        "returned_pause_ms": 2.0,
        "written_since": 3,
        "report_sha256": "0" * 64,
        "seconds": 1.0,
    }
    assert DemoResult(**numbers).is_sound  # type: ignore[arg-type]
    assert not DemoResult(**{**numbers, **broken}).is_sound  # type: ignore[arg-type]
