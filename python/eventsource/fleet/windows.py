"""When a wave may work: hours of the day in a time zone, over every change of its clocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_SPELLING = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:[-,][a-z]{3})*) )?"
    r"(?P<opens>\d{1,2}:\d{2})-(?P<closes>\d{1,2}:\d{2}) (?P<zone>\S+)",
    re.IGNORECASE,
)

#: Within so many days every window opens again: it names at least one day of the week, and of two
#: weeks a change of the clocks leaves it one.
_DAYS_AHEAD = 16


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of certain days; one that closes before it opens lasts past midnight.

    Where the clocks change, it never lasts longer than the clock on the wall would show: an hour
    that there is twice counts once, and one that there is not moves its end to after it.
    """

    text: str
    days: frozenset[int]
    opens_at: time
    closes_at: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Window:
        """From ``22:00-05:00 Europe/Berlin`` or ``mon-fri 22:00-05:00 Europe/Berlin``.

        The days are those on which it opens.

        Raises:
            ValueError: it is no window; the message says how one is written.
        """
        found = _SPELLING.fullmatch(text.strip())
        if found is None:
            raise ValueError(
                f"{text!r} is no window; write it as 22:00-05:00 Europe/Berlin or as"
                " mon-fri 22:00-05:00 Europe/Berlin"
            )
        opens_at, closes_at = _clock(text, found["opens"]), _clock(text, found["closes"])
        if opens_at == closes_at:
            raise ValueError(f"{text!r} opens when it closes; leave the window out for all day")
        try:
            zone = ZoneInfo(found["zone"])
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"{found['zone']!r} is no time zone that is known here; write one such as"
                " Europe/Berlin or UTC (the Python package tzdata has them all)"
            ) from None
        return cls(text.strip(), _days(text, found["days"]), opens_at, closes_at, zone)

    def __str__(self) -> str:
        return self.text

    def is_open(self, now: datetime) -> bool:
        """Whether it is open at this moment."""
        return self._at(now) is not None

    def closes(self, now: datetime) -> datetime:
        """When the window that is open now closes.

        Raises:
            ValueError: it is not open.
        """
        found = self._at(now)
        if found is None:
            raise ValueError(f"the window {self.text} is not open at {now.isoformat()}")
        return found[1]

    def opens(self, now: datetime) -> datetime:
        """Now if it is open, or else when it opens next."""
        if self.is_open(now):
            return now
        first = now.astimezone(self.zone).date()
        return min(
            opens
            for opens, closes in (self._on(first + timedelta(days=n)) for n in range(_DAYS_AHEAD))
            if now < opens < closes
        )

    def _at(self, now: datetime) -> tuple[datetime, datetime] | None:
        today = now.astimezone(self.zone).date()
        for day in (today - timedelta(days=1), today):
            opens, closes = self._on(day)
            if opens <= now < closes:
                return opens, closes
        return None

    def _on(self, day: date) -> tuple[datetime, datetime]:
        """The moments between which it is open when it opens on this day; empty on other days."""
        lasts_past_midnight = self.closes_at < self.opens_at
        until = day + timedelta(days=1) if lasts_past_midnight else day
        # Of an hour that there is twice the window has the second one at its begin, and the first
        # one at its end. Where both fall into it, they are of the same one.
        opens = self._moment(day, self.opens_at, fold=1)
        closes = self._moment(until, self.closes_at, fold=0)
        if closes <= opens:
            opens = self._moment(day, self.opens_at, fold=0)
        if day.weekday() not in self.days:
            return opens, opens
        return opens, closes

    def _moment(self, day: date, clock: time, *, fold: int) -> datetime:
        moment = datetime.combine(day, clock, self.zone)
        if _is_skipped(moment):
            return _end_of_gap(moment, self.zone)
        return moment.replace(fold=fold).astimezone(UTC)


def _is_skipped(moment: datetime) -> bool:
    there_and_back = moment.astimezone(UTC).astimezone(moment.tzinfo)
    return there_and_back.replace(tzinfo=None) != moment.replace(tzinfo=None)


def _end_of_gap(moment: datetime, zone: ZoneInfo) -> datetime:
    """The first moment after a time that no clock shows that day."""
    # In the later offset that time lies before the change, and in the earlier one after it.
    before, after = (moment.replace(fold=fold).astimezone(UTC) for fold in (1, 0))
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after


def _clock(text: str, part: str) -> time:
    try:
        return datetime.strptime(part, "%H:%M").time()
    except ValueError:
        raise ValueError(f"{part!r} in {text!r} is no time of a day; write 05:00") from None


def _days(text: str, part: str | None) -> frozenset[int]:
    if part is None:
        return frozenset(range(7))
    days: set[int] = set()
    for piece in part.lower().split(","):
        first, _, last = piece.partition("-")
        if first not in _DAYS or (last and last not in _DAYS):
            raise ValueError(f"{piece!r} in {text!r} is no day; write {', '.join(_DAYS)}")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days |= {(begin + n) % 7 for n in range((end - begin) % 7 + 1)}
    return frozenset(days)
