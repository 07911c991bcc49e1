"""The window of a wave, over every change of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from eventsource.fleet.windows import Window

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("window", "now", "is_open"),
    [
        ("22:00-05:00 Europe/Berlin", "2026-06-01T21:59:59+02:00", False),
        ("22:00-05:00 Europe/Berlin", "2026-06-01T22:00+02:00", True),
        ("22:00-05:00 Europe/Berlin", "2026-06-02T04:59:59+02:00", True),
        ("22:00-05:00 Europe/Berlin", "2026-06-02T05:00+02:00", False),
        ("22:00-05:00 Europe/Berlin", "2026-06-01T20:30+00:00", True),
        ("22:00-05:00 UTC", "2026-06-01T22:30+02:00", False),
        ("9:00-17:00 America/New_York", "2026-06-01T13:00+00:00", True),
        ("00:00-23:59 UTC", "2026-06-01T23:59:30+00:00", False),
        # Friday night goes on into Saturday, Sunday night does not begin.
        ("mon-fri 22:00-05:00 UTC", "2026-06-06T04:00+00:00", True),
        ("mon-fri 22:00-05:00 UTC", "2026-06-06T22:00+00:00", False),
        ("mon-fri 22:00-05:00 UTC", "2026-06-08T04:00+00:00", False),
        ("sat,sun 10:00-12:00 UTC", "2026-06-07T11:00+00:00", True),
        ("fri-mon 10:00-12:00 UTC", "2026-06-08T11:00+00:00", True),
        ("fri-mon 10:00-12:00 UTC", "2026-06-09T11:00+00:00", False),
    ],
)
def test_it_is_open_when_the_clock_says_so(window: str, now: str, is_open: bool) -> None:
    assert Window.parse(window).is_open(at(now)) is is_open


@pytest.mark.parametrize(
    ("window", "now", "opens", "closes"),
    [
        # An ordinary night, and the two of a year that have another length.
        ("22:00-05:00", "2026-06-01T12:00+02:00", "2026-06-01T20:00Z", "2026-06-02T03:00Z"),
        ("22:00-05:00", "2027-03-27T12:00+01:00", "2027-03-27T21:00Z", "2027-03-28T03:00Z"),
        ("22:00-05:00", "2026-10-24T12:00+02:00", "2026-10-24T20:00Z", "2026-10-25T04:00Z"),
        # There is no 02:15 that night: it opens when the clock shows 03:00, and so closes at once.
        ("02:15-04:00", "2027-03-28T00:00+01:00", "2027-03-28T01:00Z", "2027-03-28T02:00Z"),
        ("01:00-02:15", "2027-03-28T00:00+01:00", "2027-03-28T00:00Z", "2027-03-28T01:00Z"),
        ("02:15-02:45", "2027-03-28T00:00+01:00", "2027-03-29T00:15Z", "2027-03-29T00:45Z"),
        # 02:30 is there twice: it opens at the second, and closes at the first.
        ("02:30-04:00", "2026-10-25T00:00+02:00", "2026-10-25T01:30Z", "2026-10-25T03:00Z"),
        ("01:00-02:30", "2026-10-25T00:00+02:00", "2026-10-24T23:00Z", "2026-10-25T00:30Z"),
        ("02:15-02:45", "2026-10-25T00:00+02:00", "2026-10-25T00:15Z", "2026-10-25T00:45Z"),
        # Once a week: the next one is a week away, or two if its hour is the one that is skipped.
        ("sun 02:00-03:00", "2027-03-14T02:30+01:00", "2027-03-14T01:30Z", "2027-03-14T02:00Z"),
        ("sun 02:00-03:00", "2027-03-14T03:00+01:00", "2027-03-21T01:00Z", "2027-03-21T02:00Z"),
        ("sun 02:00-03:00", "2027-03-21T03:00+01:00", "2027-04-04T00:00Z", "2027-04-04T01:00Z"),
    ],
)
def test_a_night_in_which_the_clocks_change_is_no_longer_than_the_clock_shows(
    window: str, now: str, opens: str, closes: str
) -> None:
    parsed = Window.parse(f"{window} {BERLIN}")
    opened = parsed.opens(at(now))
    assert (opened, parsed.closes(opened)) == (at(opens), at(closes))


@pytest.mark.parametrize(
    "zone", [BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
)
@pytest.mark.parametrize("hours", ["22:00-05:00", "01:45-02:15", "02:10-02:20", "09:30-09:31"])
def test_over_two_years_it_opens_and_closes_in_turn(zone: str, hours: str) -> None:
    """A look each few minutes: the clock on the wall is within the hours whenever it is open."""
    window = Window.parse(f"{hours} {zone}")
    opens, closes = (datetime.strptime(each, "%H:%M").time() for each in hours.split("-"))
    now, nights = datetime(2026, 1, 1, 12, tzinfo=UTC), 0
    if window.is_open(now):
        now = window.closes(now)
    while now < datetime(2027, 12, 31, tzinfo=UTC):
        opened = window.opens(now)
        closed = window.closes(opened)
        assert now <= opened < closed <= opened + timedelta(hours=8)
        for moment in (opened, closed - timedelta(seconds=1), opened + (closed - opened) / 2):
            wall = moment.astimezone(ZoneInfo(zone)).time()
            late = opens > closes
            assert (wall >= opens or wall < closes) if late else (opens <= wall < closes)
            assert window.is_open(moment)
        assert not window.is_open(opened - timedelta(seconds=1))
        assert not window.is_open(closed)
        now, nights = closed, nights + 1
    assert 725 <= nights <= 730


@pytest.mark.parametrize(
    "text",
    [
        "", "22:00", "22:00-05:00", "22:00-05:00 Nowhere/Else", "25:00-05:00 UTC",
        "22:00-22:00 UTC", "every 22:00-05:00 UTC", "mon-xyz 22:00-05:00 UTC",
        "22:00-05:00 ../etc/passwd", "22:00-05:60 UTC",
    ],
)  # fmt: skip
def test_what_is_no_window_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|leave"):
        Window.parse(text)


def test_a_window_that_is_closed_does_not_close() -> None:
    window = Window.parse("22:00-05:00 UTC")
    with pytest.raises(ValueError, match="not open"):
        window.closes(at("2026-06-01T12:00Z"))
