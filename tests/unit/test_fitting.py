"""Lines that fit a terminal, and what in them stays whole."""

from __future__ import annotations

import shlex
from uuid import UUID

import pytest

from eventsource.cli.fitting import folded
from eventsource.cli.output import columns, grid

ID = str(UUID(int=0x0EBF7686E99D4AFDA138897D4F482D1D))
RETURN = f"eventsource-migrate return {ID}"
MOVE = f"eventsource-migrate run {ID} --to a-store-with-a-long-name --yes"
SAID = (
    "error: the cutover did not fit its budget of 5 s and was rolled back; in the way: pid 11535"
    " (nightly-report, idle in transaction, open for 28 s, postgres@127.0.0.1), since 2026-11-29"
    f" 08:33:52+01:00. Go on: {RETURN}, kept until 2026-12-06 08:34:18+01:00; `{RETURN}` undoes it"
)


@pytest.mark.parametrize("width", [66, 67, 72, 79, 80, 81, 100, 120, 200])
def test_no_line_is_wider_and_no_word_is_lost(width: int) -> None:
    lines = folded(SAID, width).split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(line.strip() for line in lines) == SAID


@pytest.mark.parametrize("width", [66, 72, 80, 81, 120])
@pytest.mark.parametrize(
    "whole",
    [RETURN, "pid 11535", "5 s", "28 s", "2026-11-29 08:33:52+01:00", "2026-12-06 08:34:18+01:00"],
)
def test_what_is_copied_or_read_as_one_is_in_one_line(width: int, whole: str) -> None:
    assert any(whole in line for line in folded(SAID, width).split("\n"))


def test_what_fits_stays_as_it_is() -> None:
    assert folded("a  b\n\nc", 80) == "a  b\n\nc"
    assert folded(SAID, 400) == SAID
    assert folded("so narrow that there would be a word in each line", 20).count("\n") == 0


def test_a_value_goes_on_below_where_it_begins() -> None:
    shown = folded(grid(("state", "dual_write"), ("last cutover", SAID)), 80).split("\n")
    assert shown[0] == "state         dual_write"
    assert shown[1].startswith("last cutover  error: the cutover did not fit")
    prose = [line for line in shown[2:] if RETURN not in line]
    assert prose
    assert all(line.startswith(" " * 14 + line.strip()[0]) for line in prose)


def test_a_command_that_needs_the_whole_line_begins_further_to_the_left() -> None:
    command = f"eventsource-migrate subscriptions plan {ID}"
    shown = folded(f"next      carry its subscriptions over: {command}", 80).split("\n")
    assert shown == ["next      carry its subscriptions over:", command.rjust(80)]


@pytest.mark.parametrize("width", [60, 70, 80])
def test_a_command_too_long_for_any_line_still_runs_when_it_is_copied(width: int) -> None:
    shown = folded(f"go on     {MOVE}", width)
    assert max(map(len, shown.split("\n"))) <= width
    copied = shown.removeprefix("go on     ")
    assert copied != MOVE
    assert shlex.split(copied.replace("\\\n", "")) == shlex.split(MOVE)


HEADINGS = ("router", "ready", "seen", "reason")
ROWS = [
    ("orders-1", "yes", "08:33:52", None),
    ("orders-2", "no", "08:33:50", "cannot connect to 'dedicated-a': the pool was given no dsn"),
]


def test_a_table_too_wide_for_the_screen_has_its_last_column_in_several_lines() -> None:
    whole = columns(HEADINGS, ROWS)
    assert max(map(len, whole.split("\n"))) > 80
    assert columns(HEADINGS, ROWS, 200) == whole
    shown = columns(HEADINGS, ROWS, 70).split("\n")
    assert shown[:2] == [
        "router    ready  seen      reason",
        "orders-1  yes    08:33:52",
    ]
    assert max(map(len, shown)) <= 70
    begins = whole.index("reason")
    assert all(line[:begins].strip() == "" for line in shown[3:])
    assert " ".join(line[begins:] for line in shown[2:]) == ROWS[1][3]


def test_a_table_without_room_shows_each_row_by_itself() -> None:
    rows = [(ID, ID, "dedicated-a", "standby", None), (ID, ID, "dedicated-b", "closed", "by ada")]
    headings = ("migration", "tenant", "back to", "state", "message")
    shown = columns(headings, rows, 80)
    assert max(map(len, shown.split("\n"))) <= 80
    first, second = shown.split("\n\n")
    assert first.split("\n") == [
        f"migration  {ID}", f"tenant     {ID}", "back to    dedicated-a", "state      standby",
    ]  # fmt: skip
    assert second.endswith("message    by ada")
