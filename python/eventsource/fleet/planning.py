"""What a wave would take: time, room at the targets, connections. Nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.fleet.disk import Disks
from eventsource.fleet.waves import Candidate
from eventsource.named_sql import statements

if TYPE_CHECKING:
    from eventsource.fleet.repository import WaveRepository
    from eventsource.tenant_ids import TenantId

_SQL = statements("eventsource.fleet.sql", "view.sql")

#: A tenant of fewer events says more about what a move costs in any case than about the copy.
SMALL = 20_000

#: What is assumed where nothing has been measured: events per second, and seconds for each tenant.
SLOW, FAST = (15_000.0, 4.0), (60_000.0, 1.5)

#: What the log of a server's writes takes for each byte that arrives there.
LOG = 1.2


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast moves are.

    Attributes:
        events_per_second: of one copy.
        seconds: what each move takes besides.
        moves: of how many moves this was measured; 0 is assumed.
    """

    events_per_second: float
    seconds: float
    moves: int = 0

    def of(self, candidate: Candidate) -> float:
        """About how long one tenant takes (seconds)."""
        return self.seconds + (candidate.events or 0) / self.events_per_second


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What comes to one store.

    Attributes:
        disk_bytes: what they take there with their indexes, and the log meanwhile.
        there_bytes: what lies in the tablespace of its database already; None where nobody asked.
        max_bytes: what may lie there; None where nothing says so.
    """

    tenants: int
    events: int
    bytes: int
    disk_bytes: int
    there_bytes: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a wave would take.

    Attributes:
        arrivals: by target.
        seconds: the shortest and the longest time that is to be expected, with all hours of the
            day; both are the same where moves were measured here.
        measured: of how many moves.
        unsized: tenants whose size is not known, counted as empty.
        empty: those that have no event where they are to leave, as one that was mistyped.
    """

    tenants: int
    events: int
    bytes: int
    arrivals: Mapping[str, Arrivals]
    seconds: tuple[float, float]
    measured: int
    unsized: int
    empty: tuple[TenantId, ...] = ()


async def measured(waves: WaveRepository) -> Rates | None:
    """The rates of the last moves that this journal has; None where there are too few."""
    rows = await waves.fetch(_SQL["copies"])
    large = [row for row in rows if row["events"] >= SMALL]
    small = sorted(row["seconds"] for row in rows if row["events"] < SMALL)
    copying = sum(row["copy_seconds"] for row in large)
    if not large or not copying or len(rows) < 3:
        return None
    rate = sum(row["events"] for row in large) / copying
    besides = small[len(small) // 2] if small else SLOW[1]
    return Rates(rate, besides, len(rows))


def planned(
    candidates: Sequence[Candidate],
    rates: Rates | None,
    at_once: Mapping[str, int],
    groups: Mapping[str, str],
    disks: Disks | None = None,
) -> Plan:
    """What moving them would take.

    Args:
        at_once: how many move at the same time, by group.
        groups: of each target.
        disks: what was seen of the stores; without it indexes are assumed.
    """
    disks = disks or Disks()
    arrivals = {}
    for store in sorted({each.target_store_id for each in candidates}):
        coming = [each for each in candidates if each.target_store_id == store]
        size = sum(each.bytes or 0 for each in coming)
        arrivals[store] = Arrivals(
            len(coming),
            sum(each.events or 0 for each in coming),
            size,
            round(sum(disks.brought_by(each) for each in coming) + size * LOG),
            disks.there.get(store),
            disks.bounds.of(store),
        )
    both = (rates, rates) if rates is not None else (Rates(*FAST), Rates(*SLOW))
    shortest, longest = (_seconds(candidates, each, at_once, groups) for each in both)
    return Plan(
        tenants=len(candidates),
        events=sum(each.events or 0 for each in candidates),
        bytes=sum(each.bytes or 0 for each in candidates),
        arrivals=arrivals,
        seconds=(shortest, longest),
        measured=rates.moves if rates is not None else 0,
        unsized=sum(each.bytes is None for each in candidates),
        empty=tuple(each.tenant_id for each in candidates if each.events == 0),
    )


def _seconds(
    candidates: Sequence[Candidate],
    rates: Rates,
    at_once: Mapping[str, int],
    groups: Mapping[str, str],
) -> float:
    """As long as the busiest group takes; no tenant is shared out among places."""
    busy: dict[str, float] = {}
    longest: dict[str, float] = {}
    for each in candidates:
        group = groups[each.target_store_id]
        takes = rates.of(each)
        busy[group] = busy.get(group, 0.0) + takes
        longest[group] = max(longest.get(group, 0.0), takes)
    return max(
        (max(seconds / at_once[group], longest[group]) for group, seconds in busy.items()),
        default=0.0,
    )
