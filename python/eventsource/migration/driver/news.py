"""Calls of this process that wait for a migration hear at once of what its driver hears.

The driver listens already, and reads the journal when it hears something: a call that waits beside
it needs no connection of its own for that, and is given the row. One whose migration another
process drives still reads the journal again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from eventsource.migration.models import Migration


@dataclass(slots=True, eq=False)
class Call:
    """One that waits for a migration.

    Attributes:
        news: it clears it before it reads the journal, and misses nothing.
        may_drive: whether it still begins drivers; not once the coordinator has been closed.
    """

    news: asyncio.Event = field(default_factory=asyncio.Event)
    may_drive: bool = True
    _latest: Migration | None = None
    _since: float = float("inf")

    def expect(self) -> None:
        """From now on take rows: the call has written what it had to write.

        One that was read before that would not show it.
        """
        self._since = time.monotonic()

    def take(self) -> Migration | None:
        """The row as the driver has read it since; None where the call has to read it."""
        latest, self._latest, self._since = self._latest, None, float("inf")
        return latest

    def hear(self, latest: Migration | None, asked: float) -> None:
        """There is news; ``latest`` was asked for then (by the monotonic clock)."""
        self._latest = latest if asked >= self._since else None
        self.news.set()


class News:
    """Of one process, for its coordinator."""

    def __init__(self) -> None:
        self._waiting: defaultdict[UUID, set[Call]] = defaultdict(set)
        self._driven: set[UUID] = set()

    @contextlib.contextmanager
    def of(self, migration_id: UUID) -> Iterator[Call]:
        """One call, for as long as it waits."""
        call = Call()
        self._waiting[migration_id].add(call)
        try:
            yield call
        finally:
            self._waiting[migration_id].discard(call)
            if not self._waiting[migration_id]:
                del self._waiting[migration_id]

    @contextlib.contextmanager
    def driven(self, migration_id: UUID) -> Iterator[None]:
        """While a driver of this process passes on what it hears."""
        self._driven.add(migration_id)
        try:
            yield
        finally:
            self._driven.discard(migration_id)
            self.heard(migration_id)

    def is_driven(self, migration_id: UUID) -> bool:
        """Whether a driver of this process passes on what it hears."""
        return migration_id in self._driven

    def heard(self, migration_id: UUID) -> None:
        """Let the calls that wait read the journal now."""
        for call in self._waiting.get(migration_id, ()):
            call.hear(None, time.monotonic())

    def read(self, latest: Migration, asked: float) -> None:
        """Give the calls that wait the journal's row, which was asked for then."""
        for call in self._waiting.get(latest.id, ()):
            call.hear(latest, asked)

    def close(self) -> None:
        """Those that wait now begin no driver any more: nobody would end it."""
        for calls in self._waiting.values():
            for call in calls:
                call.may_drive = False


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, but no longer than so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
