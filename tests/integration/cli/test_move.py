"""`move`: what a scheduler repeats."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import typer

from eventsource.cli.move import time_of
from tests.support.command_line import DEDICATED, SHARED, CommandLine


def test_it_moves_a_tenant_and_says_afterwards_that_there_is_nothing_to_do(
    ready: CommandLine,
) -> None:
    moved = ready.json("move", ready.tenant, "--to", DEDICATED)
    assert moved["outcome"] == "migrated"
    assert ready.count("target") == 400
    again = ready("move", ready.tenant, "--to", DEDICATED)
    assert "nothing to do" in again.output
    named = ready.json("move", ready.tenant, "--to", DEDICATED, "--from", SHARED)
    assert named["migration"]["id"] == moved["migration"]["id"]
    assert len(ready.json("list")) == 1


def test_after_its_time_it_says_to_try_again_and_changes_nothing(ready: CommandLine) -> None:
    late = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    result = ready("move", ready.tenant, "--to", DEDICATED, "--until", late, exit_code=75)
    assert "nothing was begun" in result.output
    assert ready.json("list") == []


def test_without_time_it_parks_the_migration_and_the_next_one_goes_on(ready: CommandLine) -> None:
    ready.write_config("batch_size = 1\nmax_events_per_second = 20\n")
    soon = (datetime.now(UTC) + timedelta(seconds=12)).isoformat()
    stopped = ready.json("move", ready.tenant, "--to", DEDICATED, "--until", soon, exit_code=75)
    assert stopped["error"]["code"] == "deadline"
    assert 0 < ready.count("target") < 400
    ready.json("throttle", ready.migration()["id"], "none")
    ready("move", ready.tenant, "--to", DEDICATED)
    assert ready.count("target") == 400
    assert len(ready.json("list")) == 1


def test_a_refusal_has_the_exit_code_of_one(ready: CommandLine) -> None:
    ready.sql("target", "drop table events")
    ready("move", ready.tenant, "--to", DEDICATED, exit_code=3)


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "nowhere"],
        ["--to", SHARED, "--from", SHARED],
        ["--to", DEDICATED, "--until", "soon"],
        ["--to", DEDICATED, "--until", "25:00"],
        ["--to", DEDICATED, "--until", "2026-12-01T05:00"],
    ],
)
def test_what_cannot_be_meant_is_a_matter_of_usage(ready: CommandLine, words: list[str]) -> None:
    ready("move", ready.tenant, *words, exit_code=2)
    assert ready.json("list") == []


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("now", "text", "expected"),
    [
        ("2026-06-01T01:00+02:00", "05:00", "2026-06-01T05:00+02:00"),
        ("2026-06-01T05:00+02:00", "05:00", "2026-06-02T05:00+02:00"),
        ("2026-06-01T23:30+02:00", "5:07", "2026-06-02T05:07+02:00"),
        # The night in which the clocks go forward, and the one in which they go back.
        ("2027-03-27T23:00+01:00", "05:00", "2027-03-28T05:00+02:00"),
        ("2026-10-24T23:00+02:00", "05:00", "2026-10-25T05:00+01:00"),
        ("2026-06-01T01:00+02:00", "2026-07-01T05:00+01:00", "2026-07-01T06:00+02:00"),
    ],
)
@pytest.mark.usefixtures("in_berlin")
def test_a_time_of_the_clock_is_the_next_one(now: str, text: str, expected: str) -> None:
    assert time_of(text, datetime.fromisoformat(now)) == datetime.fromisoformat(expected)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="time zone"):
        time_of("2026-12-01T05:00")
