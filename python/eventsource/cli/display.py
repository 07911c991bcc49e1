"""Showing how far a move is: a bar on a terminal, a plain line every two seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from eventsource.cli.output import Output, amount, duration, labelled, localised
from eventsource.counts import counted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two plain lines.
LINE_SECONDS = 2.0

#: Columns of a terminal with room for a longer bar.
_WIDE = 120

#: The rate is that of the last seconds: an average since the start would hide a stall.
RATE_SECONDS = 5.0


class Rate:
    """Events per second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, events: int, now: float) -> float | None:
        """Note a count taken at ``now`` (seconds); the rate, or None before there is one."""
        if not self._seen or self._seen[-1][1] != events:
            self._seen.append((now, events))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        return (events - before) / (now - began) if events > before and now > began else None


class Display(Protocol):
    """A context in which progress is shown; lines said stay, progress is replaced."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, label: str, text: str) -> None:
        """A line that stays."""
        ...

    def progress(
        self, label: str, done: int, total: int, remark: str = "", unit: str = "event"
    ) -> None:
        """So many of so many; a remark takes the place of rate and ETA."""
        ...

    def waiting(self, label: str, text: str) -> None:
        """What is going on, without a number."""
        ...

    def settle(self) -> None:
        """Take the progress away: a line or a question follows."""
        ...


def display_for(out: Output) -> Display:
    """The display that fits where ``out`` prints."""
    return LiveDisplay(out) if out.is_live else LineDisplay(out)


class LineDisplay:
    """Plain lines, for files, pipes and logs."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._rate = Rate()
        self._shown_at = float("-inf")
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def say(self, label: str, text: str) -> None:
        self._out.say(labelled(label, text))

    def progress(
        self, label: str, done: int, total: int, remark: str = "", unit: str = "event"
    ) -> None:
        rate = self._rate.add(done, time.monotonic())
        percent = 100 * done / total if total else 100
        text = f"{percent:5.1f} %  {amount(done)} of {counted(total, unit)}"
        self._line(labelled(label, f"{text}  {remark or speed(rate, total - done)}".rstrip()))

    def waiting(self, label: str, text: str) -> None:
        self._line(labelled(label, text))

    def settle(self) -> None:
        self._shown_at = float("-inf")

    def _line(self, line: str) -> None:
        now = time.monotonic()
        if line != self._shown and now - self._shown_at >= LINE_SECONDS:
            self._out.say(line)
            self._shown, self._shown_at = line, now


class LiveDisplay:
    """One line at the bottom of the terminal that is redrawn; what is said scrolls above it."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._rate = Rate()
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._has_bar = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.settle()

    def say(self, label: str, text: str) -> None:
        self.settle()
        self._out.say(labelled(label, text))

    def progress(
        self, label: str, done: int, total: int, remark: str = "", unit: str = "event"
    ) -> None:
        rate = self._rate.add(done, time.monotonic())
        percent = 100 * done / total if total else 100
        text = f"{percent:3.0f} %  {amount(done)} of {amount(total)}  "
        self._show(label, text + (remark or speed(rate, total - done)), done, total)

    def waiting(self, label: str, text: str) -> None:
        self._show(label, text, None, None)

    def settle(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None

    def _show(self, label: str, text: str, done: int | None, total: int | None) -> None:
        if self._bars is None or self._task is None or self._has_bar != (total is not None):
            self.settle()
            self._has_bar = total is not None
            self._bars = _line(self._out, self._has_bar)
            self._task = self._bars.add_task("", text=text)
            self._bars.start()
        here = localised(text)
        self._bars.update(
            self._task, description=f"{label:<9}", text=here, completed=done or 0, total=total or 1
        )


def _line(out: Output, has_bar: bool) -> Progress:
    # Loaded here: only a terminal shows it.
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    from rich.table import Column

    name = TextColumn("{task.description}")
    # In several lines where it is long: who is in the way stands at its end.
    whole = Column(no_wrap=False, overflow="fold")
    text = TextColumn("{task.fields[text]}", markup=False, table_column=whole)
    # Not rich's own colours: its red reads as an alarm.
    length = 30 if out.width >= _WIDE else 12
    bar = BarColumn(
        length, complete_style="blue", finished_style="green", table_column=Column(no_wrap=True)
    )
    middle = bar if has_bar else SpinnerColumn("line", style="default")
    return Progress(name, middle, text, console=out.console, transient=True)


def speed(rate: float | None, left: int) -> str:
    """Events per second and the time that is left at this rate."""
    if rate is None or left <= 0:
        return ""
    return f"{amount(rate)}/s  ETA {duration(left / rate)}"
