"""What a wave looks like now: for the command line and for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.fleet.repository import Share
from eventsource.fleet.waves import Outcome, Wave, WaveItem, WaveState
from eventsource.named_sql import statements
from eventsource.tenant_ids import TenantId, restored

if TYPE_CHECKING:
    from eventsource.fleet.repository import WaveRepository

_SQL = statements("eventsource.fleet.sql", "view.sql")

#: The pace is that of so many seconds.
PACE_SECONDS = 900.0

#: What a view shows of a wave at most: moves that are under way, and tenants with bad news.
MOST_MOVING, MOST_TROUBLES = 200, 100

#: Waves that an overview shows, unless another number is asked for.
MOST_WAVES = 20


@dataclass(frozen=True, slots=True)
class Moving:
    """A tenant whose move has begun.

    Attributes:
        phase: the state of its migration, ``parked``, or ``waiting`` before there is one.
        waits_for: what its driver, or the next attempt, waits for.
        events_per_second: the average of its copy.
        eta_seconds: until its copy is done at that rate; None where nobody can say.
    """

    tenant_id: TenantId
    ordinal: int
    source_store_id: str
    target_store_id: str
    migration_id: UUID | None
    phase: str
    events_copied: int
    total_events: int
    percent: float
    events_per_second: float | None
    eta_seconds: float | None
    waits_for: str | None
    driver_name: str | None
    attempts: int
    began_at: datetime

    @classmethod
    def from_row(cls, row: Any) -> Moving:
        """From a row of the ``moving`` statement."""
        copied, total = row["events_copied"], row["total_events"]
        seconds, rate, eta = row["copying_seconds"], None, None
        if row["state"] == "bulk_copy" and seconds and copied:
            rate = copied / seconds
            eta = max(0, total - copied) / rate if total else None
        values = {each.name: row[each.name] for each in fields(cls) if each.name in row.keys()}  # noqa: SIM118
        values |= {
            "tenant_id": restored(row["tenant_id"]),
            "phase": "parked" if row["parked"] else row["state"] or "waiting",
            "events_per_second": rate,
            "eta_seconds": eta,
            "waits_for": row["message"] or row["last_error"],
            "driver_name": row["driver_name"] if row["driver_alive"] else None,
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class WaveView:
    """A wave at a moment.

    Attributes:
        shares: tenants by outcome; ``waiting`` and ``begun`` are those without one.
        tenants_per_second, events_per_second: of the last quarter of an hour.
        eta_seconds: until all are done at that pace; None where nobody can say.
        median_pause_ms, longest_pause_ms: of those that have moved.
        troubles: those that did not move, in their order.
    """

    wave: Wave
    at: datetime
    shares: Mapping[str, Share]
    moving: tuple[Moving, ...]
    troubles: tuple[WaveItem, ...]
    tenants_per_second: float | None
    events_per_second: float | None
    eta_seconds: float | None
    median_pause_ms: float | None
    longest_pause_ms: float | None

    @property
    def tenants(self) -> int:
        """All of them."""
        return sum(each.tenants for each in self.shares.values())

    def count(self, what: str) -> int:
        """How many have this outcome."""
        found = self.shares.get(what)
        return found.tenants if found is not None else 0

    @property
    def left(self) -> int:
        """How many have no outcome yet."""
        return self.count("waiting") + self.count("begun")


async def view_of(waves: WaveRepository, wave: Wave) -> WaveView:
    """The wave now."""
    shares = await waves.summary(wave)
    moving = await waves.fetch(_SQL["moving"], wave.id, MOST_MOVING)
    [pace] = await waves.fetch(_SQL["pace"], wave.id, PACE_SECONDS)
    [pauses] = await waves.fetch(_SQL["pauses"], wave.id)
    troubles: list[WaveItem] = []
    for outcome in (Outcome.FAILED, Outcome.HELD, Outcome.REFUSED):
        room = MOST_TROUBLES - len(troubles)
        troubles += await waves.items(wave, outcome=outcome, limit=room)
    seconds = pace["seconds"] or 0
    tenants = pace["tenants"] / seconds if seconds else None
    events = float(pace["events"]) / seconds if seconds else None
    return WaveView(
        wave=wave,
        at=datetime.now(UTC),
        shares=shares,
        moving=tuple(Moving.from_row(row) for row in moving),
        troubles=tuple(troubles),
        tenants_per_second=tenants,
        events_per_second=events,
        eta_seconds=_eta(wave, shares, tenants, events),
        median_pause_ms=pauses["median"],
        longest_pause_ms=pauses["longest"],
    )


async def overview(waves: WaveRepository, limit: int = MOST_WAVES) -> tuple[list[WaveView], int]:
    """The waves that are not done, then the newest of the others; and how many more there are.

    Of those of which nothing moves only the numbers of tenants are read, all in one statement.
    """
    found = await waves.not_done(limit=limit)
    known = {each.id for each in found}
    found += [each for each in await waves.get_all(limit=limit) if each.id not in known]
    found = found[:limit]
    still = [each for each in found if each.state not in (WaveState.RUNNING, WaveState.STOPPED)]
    shares: dict[UUID, dict[str, Share]] = {each.id: {} for each in still}
    for row in await waves.closed(still):
        shares[row["id"]][row["what"]] = Share(row["what"], row["tenants"], 0, 0)
    views = [
        _at_rest(each, shares[each.id]) if each.id in shares else await view_of(waves, each)
        for each in found
    ]
    return views, await waves.count() - len(views)


def _at_rest(wave: Wave, shares: Mapping[str, Share]) -> WaveView:
    left = None if "waiting" in shares else 0.0
    return WaveView(wave, datetime.now(UTC), shares, (), (), None, None, left, None, None)


def _eta(
    wave: Wave, shares: Mapping[str, Share], tenants: float | None, events: float | None
) -> float | None:
    """By the number of tenants and by that of events, whichever takes longer."""
    left = [shares[what] for what in ("waiting", "begun") if what in shares]
    if not left:
        return 0.0
    if wave.state is not WaveState.RUNNING or not tenants:
        return None
    by_tenants = sum(each.tenants for each in left) / tenants
    by_events = sum(each.events for each in left) / events if events else 0.0
    return max(by_tenants, by_events)
