"""Rehearsals of a cutover, and what they foretell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eventsource.migration.errors import Blocker
from eventsource.migration.failures import OK, blockers_of


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One rehearsal of a cutover: the fence was held, and nothing was decided.

    Attributes:
        at: when it ended.
        operator: who asked for it.
        fits: whether everything was done within the budget. Without, the numbers are None.
        budget_seconds: how long the writers might have waited; None where it did not come so far.
        pause_ms: from asking for the fence to letting the writers go, with as many commits as a
            cutover makes.
        lock_wait_ms: how much of that the appends in flight took.
        longest_wait_ms: the longest that a writer had waited at the fence when it was let go; None
            where that could not be measured.
        rows: what the last pass carried.
        attempts: how often the fence was asked for.
        in_the_way: whose transactions held it up.
        message: why it did not fit, or None.
    """

    at: datetime
    operator: str | None
    fits: bool
    budget_seconds: float | None
    pause_ms: float | None
    lock_wait_ms: float | None
    longest_wait_ms: float | None
    rows: int | None
    attempts: int | None
    in_the_way: tuple[Blocker, ...] = ()
    message: str | None = None

    @classmethod
    def of(cls, at: datetime, operator: str | None, outcome: Mapping[str, Any]) -> Rehearsal:
        """From what the driver has answered."""
        fits = outcome["code"] == OK
        return cls(
            at=at,
            operator=operator,
            fits=fits,
            budget_seconds=outcome.get("budget_seconds", outcome.get("timeout_seconds")),
            pause_ms=outcome.get("pause_ms"),
            lock_wait_ms=outcome.get("lock_wait_ms"),
            longest_wait_ms=outcome.get("longest_wait_ms"),
            rows=outcome.get("rows"),
            attempts=outcome.get("attempts"),
            in_the_way=blockers_of(outcome.get("in_the_way", outcome.get("blockers", ()))),
            message=None if fits else str(outcome.get("message")),
        )

    def __str__(self) -> str:
        if not self.fits:
            return f"the last rehearsal did not fit: {self.message}"
        longest = self.longest_wait_ms
        waited = "" if longest is None else f" (longest wait of a writer {longest:.0f} ms)"
        return f"the last rehearsal held the fence {self.pause_ms or 0:.0f} ms{waited}"


def foretold(rehearsals: Sequence[Rehearsal]) -> str | None:
    """One clause about what a cutover would take; None when nobody has rehearsed it."""
    if not rehearsals:
        return None
    fitted = sum(each.fits for each in rehearsals)
    return f"{rehearsals[-1]}, {fitted} of {len(rehearsals)} fitted"
