"""How fast a pass may go: as fast as the operator allows, and as the source can take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventsource.migration.connections.driver_connections import close_all
from eventsource.migration.driver.slowdown import Slowdown
from eventsource.migration.driver.source_load import SourceLoad

if TYPE_CHECKING:
    from eventsource.connections import ConnectionParameters
    from eventsource.dataplane import PassSession
    from eventsource.migration.models import MigrationConfig

#: Seconds between two looks at the source.
LOOK_SECONDS = 0.5

#: Looks before the copy begins, and the seconds between them.
BASELINE_LOOKS, BASELINE_SECONDS = 7, 0.1

#: Chunks are committed in jumps: the speed of the copy is that of the last seconds.
SPEED_SECONDS = 3.0


@dataclass(slots=True)
class Throttle:
    """Holds the pass that runs to its rate, also when the rate changes meanwhile.

    Attributes:
        limit: what the operator allows (events per second); None is any rate.
        slowdown: what the source can take, where it is watched.
        urgent: a cutover waits for the lag to shrink, and no limit holds until it has ended.
        ready: the source was looked at before the copy began, or is not watched.
    """

    limit: float | None = None
    slowdown: Slowdown | None = None
    urgent: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _session: PassSession | None = None
    _speed: Speed = field(default_factory=lambda: Speed())

    @property
    def rate(self) -> float | None:
        """What a pass may take (events per second); anything while a cutover waits for it."""
        if self.urgent:
            return None
        rates = (self.limit, self.reported()[0])
        return min((rate for rate in rates if rate is not None), default=None)

    def reported(self) -> tuple[float | None, str | None]:
        """The rate that the source can take and why it is that, for the journal."""
        if self.slowdown is None or self.slowdown.rate is None or self.urgent:
            return None, None
        return self.slowdown.rate, self.slowdown.reason

    def hold(self, session: PassSession | None) -> None:
        """A pass begins, or has ended: then nothing here touches its session any more.

        The last pass is never held; writers wait for it.
        """
        self._session = session
        self._apply()

    def allow(self, limit: float | None, *, urgent: bool) -> None:
        """What the journal says from now on."""
        if (limit, urgent) != (self.limit, self.urgent):
            self.limit, self.urgent = limit, urgent
            self._apply()

    async def watch_source(self, source: ConnectionParameters, config: MigrationConfig) -> None:
        """Slow passes down while the source suffers, until cancelled; nothing when not wanted."""
        if config.max_source_slowdown is None:
            self.ready.set()
            return
        load = await SourceLoad.open(source)
        try:
            before = []
            for _ in range(BASELINE_LOOKS):
                before.append(await load.look())
                await asyncio.sleep(BASELINE_SECONDS)
            self.slowdown = Slowdown.beyond(before, config.max_source_slowdown)
            self.ready.set()
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                if self._session is None and self.slowdown.rate is None:
                    continue  # at rest, or under the fence: nothing that could go slower
                seen = await load.look()
                self.slowdown.observe(seen, self._speed.of(self._session), self.limit)
                self._apply()
        finally:
            await close_all([load.connection])

    def _apply(self) -> None:
        if self._session is not None:
            self._session.set_rate(self.rate)


class Speed:
    """Events per second that a session has committed over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, session: PassSession | None) -> float:
        """0.0 as long as it is not known."""
        if session is None:
            self._seen.clear()
            return 0.0
        now, rows = time.monotonic(), session.progress().rows
        if self._seen and rows < self._seen[-1][1]:
            self._seen.clear()  # another pass
        self._seen.append((now, rows))
        while now - self._seen[0][0] > SPEED_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        return (rows - before) / (now - began) if now > began else 0.0
