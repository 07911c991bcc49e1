"""What the demonstration measured and what the checker found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eventsource.cli.output import amount, duration
from eventsource.counts import counted
from eventsource.testing import Attempt, CheckReport, Outcome


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long appends that succeeded took, in milliseconds, as their writers saw it.

    Attributes:
        p99_before: 99th percentile before the cutover was asked for.
        at_cutover: the longest that was under way during the cutover.
        longest: the longest of all.
    """

    p99_before: float
    at_cutover: float
    longest: float

    @classmethod
    def of(cls, attempts: Iterable[Attempt], asked: float, done: float) -> Latencies:
        """From what was recorded; ``asked`` and ``done`` are seconds of the records' clock."""
        before, during, every = [0.0], [0.0], [0.0]
        for attempt in attempts:
            if attempt.outcome is not Outcome.OK or attempt.returned_at is None:
                continue
            taken = (attempt.returned_at - attempt.invoked_at) * 1000
            every.append(taken)
            if attempt.returned_at < asked:
                before.append(taken)
            elif attempt.invoked_at <= done:
                during.append(taken)
        return cls(percentile(before, 99), max(during), max(every))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The numbers of one demonstration. Times in milliseconds where the name says so.

    Attributes:
        pause_ms, returned_pause_ms: how long the fence was held at the move and at the return.
        written_since: events that only the store has to which the tenant returned.
        followed: how many of the tenant's events the subscription got that follows by itself.
        report_sha256: the digest at the end of the return's report.
    """

    events_copied: int
    copy_seconds: float
    events_per_second: float
    pause_ms: float | None
    latencies: Latencies
    acknowledged: int
    found: int
    lost: int
    violations: tuple[str, ...]
    others_untouched: bool
    others_appended: int
    others_violations: tuple[str, ...]
    skipped: int
    redelivered: int
    redelivered_predicted: int
    followed: int
    returned_pause_ms: float | None
    written_since: int
    report_sha256: str
    seconds: float

    @property
    def is_sound(self) -> bool:
        """Whether every promise was kept."""
        return (
            not self.violations
            and self.others_untouched
            and self.lost == 0
            and self.skipped == 0
            and self.redelivered == self.redelivered_predicted
        )

    def rows(self) -> list[tuple[str, str]]:
        """The table: what, and how much."""
        spent = f"in {duration(self.copy_seconds)}, {counted(self.events_per_second, 'event')}/s"
        appends = self.latencies
        broken = f", {len(self.violations)} promises broken" if self.violations else ""
        return [
            ("copied", f"{counted(self.events_copied, 'event')} {spent}"),
            ("pause of the writers", _pause(self.pause_ms)),
            ("pause at the return", _pause(self.returned_pause_ms)),
            (
                "longest append",
                f"{appends.at_cutover:.1f} ms at the cutover (p99 before: "
                f"{appends.p99_before:.1f} ms; longest of all: {appends.longest:.1f} ms)",
            ),
            (
                "acknowledged events",
                f"{amount(self.acknowledged)}, found {amount(self.found)}, "
                f"lost {amount(self.lost)}{broken}",
            ),
            (
                "other tenants untouched",
                f"{'yes' if self.others_untouched else 'NO'}, they wrote "
                f"{counted(self.others_appended, 'event')} meanwhile",
            ),
            (
                "subscriptions",
                f"skipped {self.skipped}, redelivered {self.redelivered} "
                f"(predicted {self.redelivered_predicted}); one followed by itself, "
                f"{counted(self.followed, 'event')}",
            ),
            ("report of the return", f"unchanged, sha256 {self.report_sha256}"),
        ]


def _pause(milliseconds: float | None) -> str:
    return "not measured" if milliseconds is None else f"{milliseconds:.1f} ms"


def untouched(reports: Iterable[CheckReport]) -> tuple[bool, int, tuple[str, ...]]:
    """Whether all bystanders are as they should be, what they wrote, and what is wrong."""
    reports = list(reports)
    wrong = tuple(str(violation) for report in reports for violation in report.violations)
    return not wrong, sum(report.acknowledged for report in reports), wrong
