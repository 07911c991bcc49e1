"""The rate of a copy that spares its source: additive increase, multiplicative decrease.

The rule is that of D.-M. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks" (1989). Several copies that share a source come to share
it evenly by it, without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median

#: What is left of the rate when the source suffers.
DECREASE = 0.5

#: Looks in which a rate rises from nothing to full speed.
STEPS = 40

#: Looks after a decrease that still show the load before it.
SETTLING = 2

#: The copy goes on, however busy the source is (events per second).
FLOOR = 100.0


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a server is. None: there is no such thing, or the role may not see it."""

    commit_ms: float | None = None
    active_sessions: float | None = None
    replica_lag_mb: float | None = None

    @classmethod
    def middle_of(cls, loads: Sequence[Load]) -> Load:
        """The median of each figure, over the looks that saw it."""
        seen = {
            each.name: [value for load in loads if (value := getattr(load, each.name)) is not None]
            for each in fields(cls)
        }
        return cls(**{name: median(values) if values else None for name, values in seen.items()})


#: So little is nobody's trouble, whatever it was before: a disk that is quick doubles its latency
#: for a hiccup, and a server that had one session at work may have a few.
NEGLIGIBLE = Load(commit_ms=2.0, active_sessions=4.0, replica_lag_mb=16.0)

_TOLD = {
    "commit_ms": "a commit takes {:.1f} ms ({:.1f} before the copy)",
    "active_sessions": "active sessions: {:.0f} ({:.0f} before the copy)",
    "replica_lag_mb": "a replica is {:.0f} MB behind ({:.0f} before the copy)",
}


@dataclass(slots=True)
class Slowdown:
    """Decides; it neither measures nor waits.

    Attributes:
        before: the source without the copy.
        factor: how many times that is bearable.
        rate: what the source can take (events per second); None is full speed.
        reason: what the last decrease was for.
    """

    before: Load
    factor: float
    rate: float | None = None
    reason: str | None = None
    _fastest: float = 0.0
    _settling: int = 0

    @classmethod
    def beyond(cls, before: Sequence[Load], factor: float) -> Slowdown:
        """Against what was seen before the copy."""
        return cls(Load.middle_of(before), factor)

    def observe(self, load: Load, speed: float, limit: float | None) -> None:
        """One look at the source.

        Args:
            speed: of the copy now (events per second); 0 when it is at rest or unknown.
            limit: the operator's, which is what full speed means where there is one.
        """
        self._fastest = max(self._fastest, speed)
        if self._settling:
            self._settling -= 1
        elif (trouble := self._trouble(load)) is not None:
            self._decrease(speed, limit)
            self.reason = trouble
        elif self.rate is not None:
            self._increase(limit)

    def _decrease(self, speed: float, limit: float | None) -> None:
        # A rate above the speed of the copy holds nothing back: halving it would not either.
        known = [each for each in (self.rate, limit, speed) if each]
        floor = FLOOR if limit is None else min(FLOOR, limit)
        self.rate = max(floor, min(known, default=0.0) * DECREASE)
        self._settling = SETTLING

    def _increase(self, limit: float | None) -> None:
        full = self._fastest if limit is None else limit
        rate = (self.rate or 0.0) + max(full, FLOOR) / STEPS
        self.rate = rate if rate < full else None

    def _trouble(self, load: Load) -> str | None:
        """What is worse than bearable, in words."""
        for each in fields(load):
            now, before = getattr(load, each.name), getattr(self.before, each.name)
            if now is None or before is None:
                continue
            if now > max(before * self.factor, getattr(NEGLIGIBLE, each.name)):
                return _TOLD[each.name].format(now, before)
        return None
