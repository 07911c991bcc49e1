"""What the page shows, read once for everybody who looks at it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource.connections import redact
from eventsource.errors import EventSourceError
from eventsource.fleet.view import Moving, WaveView, view_of
from eventsource.fleet.waves import Wave, WaveState
from eventsource.named_sql import statements
from eventsource.tenant_ids import restored

if TYPE_CHECKING:
    from eventsource.fleet.repository import WaveRepository

_SQL = statements("eventsource.fleet.sql", "view.sql")

#: How often the page is brought up to date (seconds).
LOOK_SECONDS = 1.0

#: How often the lag of the moves that catch up is counted, and how long one count may take
#: (seconds). It reads the stores.
LAG_SECONDS, LAG_PATIENCE = 5.0, 2.0

#: Moves whose lag is counted at the same time, and values that a plot has.
LAGS_AT_ONCE, PLOTTED = 10, 60

#: Tenants that have moved last, each shown with its pause.
ARRIVED = 10

#: What is said of waves alone of which something moves.
_OF_OPEN_WAVES = (
    *("stopped_by", "stop_reason", "window", "window_for", "tenants_per_second"),
    *("eta_seconds", "median_pause_ms", "longest_pause_ms"),
)

#: Waves that are shown in full, and those of which there is one line.
OPEN_WAVES, CLOSED_WAVES = 5, 20


@dataclass(slots=True)
class Course:
    """How one move went lately."""

    rates: deque[float] = field(default_factory=lambda: deque(maxlen=PLOTTED))
    lags: deque[int] = field(default_factory=lambda: deque(maxlen=PLOTTED))
    copied: int = 0
    at: float = 0.0

    def see(self, copied: int) -> None:
        """So many events were copied by now."""
        now = time.monotonic()
        if self.at and copied >= self.copied:
            self.rates.append(round((copied - self.copied) / max(0.001, now - self.at), 1))
        self.copied, self.at = copied, now


@dataclass(slots=True)
class Snapshots:
    """Reads while somebody looks, and hands everybody the same.

    Args:
        waves: in the control database.
        lag_of: counts a migration's lag (events).
    """

    waves: WaveRepository
    lag_of: Callable[[UUID], Awaitable[int]]
    _courses: dict[UUID, Course] = field(default_factory=dict)
    _last: dict[str, Any] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _lookers: int = 0
    _reading: asyncio.Task[None] | None = None
    _counting: asyncio.Task[None] | None = None
    _catching_up: tuple[UUID, ...] = ()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """What is to be shown, now and whenever it was read again."""
        self._lookers += 1
        self._ensure()
        try:
            if self._last:
                yield self._last
            while True:
                async with self._changed:
                    await self._changed.wait()
                yield self._last
        finally:
            self._lookers -= 1

    async def now(self) -> dict[str, Any]:
        """What is to be shown at this moment."""
        return await self._read()

    async def close(self) -> None:
        """Stop reading."""
        for task in (self._reading, self._counting):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def _ensure(self) -> None:
        loop = asyncio.get_running_loop()
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._read_on())
        if self._counting is None or self._counting.done():
            self._counting = loop.create_task(self._count_on())

    async def _read_on(self) -> None:
        while self._lookers:
            try:
                self._last = await self._read()
            except Exception as error:
                # Whatever it is: nobody begins again for those who look on already.
                self._last = {**self._last, "trouble": redact(str(error)) or "no answer"}
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(LOOK_SECONDS)

    async def _count_on(self) -> None:
        while self._lookers:
            for migration_id in self._catching_up[:LAGS_AT_ONCE]:
                # A store that is away has no lag that anybody could count.
                with contextlib.suppress(
                    EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError
                ):
                    async with asyncio.timeout(LAG_PATIENCE):
                        lag = await self.lag_of(migration_id)
                        self._course(migration_id).lags.append(lag)
            await asyncio.sleep(LAG_SECONDS)

    def _course(self, migration_id: UUID) -> Course:
        return self._courses.setdefault(migration_id, Course())

    async def _read(self) -> dict[str, Any]:
        open_waves = [
            *await self.waves.in_state(WaveState.RUNNING, limit=OPEN_WAVES),
            *await self.waves.in_state(WaveState.STOPPED, limit=OPEN_WAVES),
        ]
        others = [
            each
            for each in await self.waves.get_all(limit=CLOSED_WAVES)
            if each.state not in (WaveState.RUNNING, WaveState.STOPPED)
        ]
        views = [await view_of(self.waves, wave) for wave in open_waves]
        alone = [Moving.from_row(row) for row in await self.waves.fetch(_SQL["alone"])]
        self._follow_courses([*alone, *(each for view in views for each in view.moving)])
        shown = [await self._wave(view) for view in views]
        shown += await self._closed(others)
        return {"waves": shown, "alone": [self._moving(each) for each in alone], "trouble": None}

    def _follow_courses(self, moving: Sequence[Moving]) -> None:
        known = {each.migration_id: each for each in moving if each.migration_id is not None}
        for gone in set(self._courses) - set(known):
            del self._courses[gone]
        for migration_id, each in known.items():
            if each.phase == "bulk_copy":
                self._course(migration_id).see(each.events_copied)
        self._catching_up = tuple(
            each.migration_id
            for each in moving
            if each.migration_id is not None and each.phase == "dual_write"
        )

    async def _closed(self, waves: Sequence[Wave]) -> list[dict[str, Any]]:
        """Of those that are planned or done only how many tenants have which outcome."""
        shown: dict[str, dict[str, Any]] = {}
        for row in await self.waves.closed(waves):
            wave = shown.setdefault(
                row["name"],
                {
                    **dict.fromkeys(_OF_OPEN_WAVES),
                    **dict.fromkeys(("pauses", "arrived", "moving", "troubles", "history"), ()),
                    "name": row["name"],
                    "state": row["state"],
                    "counts": {},
                    "tenants": 0,
                    "left": 0,
                },
            )
            wave["counts"][row["what"]] = row["tenants"]
            wave["tenants"] += row["tenants"]
            wave["left"] += row["tenants"] if row["what"] == "waiting" else 0
        return list(shown.values())

    async def _wave(self, view: WaveView) -> dict[str, Any]:
        recent = await self.waves.fetch(_SQL["recent_pauses"], view.wave.id, PLOTTED)
        return {
            "name": view.wave.name,
            "state": view.wave.state,
            "stopped_by": view.wave.stopped_by,
            "stop_reason": view.wave.stop_reason,
            "window": view.wave.settings.window,
            "window_for": view.wave.settings.window_for,
            "tenants": view.tenants,
            "counts": {what: share.tenants for what, share in view.shares.items()},
            "left": view.left,
            "tenants_per_second": view.tenants_per_second,
            "eta_seconds": view.eta_seconds,
            "median_pause_ms": view.median_pause_ms,
            "longest_pause_ms": view.longest_pause_ms,
            "pauses": [row["cutover_pause_ms"] for row in reversed(recent)],
            "arrived": [
                {**dict(row), "tenant_id": restored(row["tenant_id"])} for row in recent[:ARRIVED]
            ],
            "moving": [self._moving(each) for each in view.moving],
            "troubles": view.troubles,
            "history": view.wave.history,
        }

    def _moving(self, each: Moving) -> dict[str, Any]:
        course = self._courses.get(each.migration_id) if each.migration_id is not None else None
        shown = {name: getattr(each, name) for name in each.__slots__}
        shown["rates"] = list(course.rates) if course is not None else []
        shown["lags"] = list(course.lags) if course is not None else []
        return shown
