"""What a driver waits for: said in the journal while it waits, and gone from there afterwards.

What waits lies deep below the driver, in a step that takes a lock, and knows of no journal. So the
driver's voice is a context variable: whatever runs in its task speaks with it, and a step that runs
without a driver stays silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TypeAlias

from eventsource.migration.errors import Blocker

_log = logging.getLogger("eventsource.migration.driver")

#: What is over sooner is no wait (seconds). Those who ask hear of the others within three.
SAID_AFTER = 1.5

#: How often it is looked again who is in the way (seconds).
LOOK_SECONDS = 1.0

#: Writing to the journal must not become a wait of its own (seconds).
_SAYING_SECONDS = 2.0

#: How messages about a wait begin.
WAITING = "waiting"

#: What a migration waits for that its stores have no room for.
FOR_A_PLACE = "for a place"

#: Publishes a message; None takes it back.
Say: TypeAlias = Callable[[str | None], Awaitable[None]]

#: Who is in the way, given for how long that has been waited for (seconds).
Look: TypeAlias = Callable[[float], Awaitable[Sequence[Blocker]]]

_voice: ContextVar[Say | None] = ContextVar("eventsource_voice", default=None)


@contextlib.contextmanager
def speaking(say: Say) -> Iterator[None]:
    """Whatever waits in this block says so with ``say``."""
    before = _voice.set(say)
    try:
        yield
    finally:
        _voice.reset(before)


class Wait:
    """One wait.

    Args:
        what: what is waited for: "for a lock on the table orders".
        ends: what ends it.
    """

    def __init__(self, what: str, ends: str) -> None:
        self._what, self._ends = what, ends
        self._began, self._since = time.monotonic(), datetime.now(UTC)
        self._looked = float("-inf")
        self._said: str | None = None

    @property
    def seconds(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._began

    async def goes_on(self, look: Look | None = None) -> None:
        """It is not over yet; call it as often as you like."""
        now = time.monotonic()
        if self.seconds < SAID_AFTER or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        # The session that holds a lock may be one that this role is not shown.
        in_the_way: Sequence[Blocker] = ()
        if look is not None:
            in_the_way = await look(self.seconds)
        await self._say(self._text(in_the_way))

    async def is_over(self) -> None:
        """Take back what was said."""
        if self._said is not None:
            await self._say(None)

    def _text(self, in_the_way: Sequence[Blocker]) -> str:
        since = self._since.strftime("%Y-%m-%d %H:%M:%S UTC")
        by = f"; in the way: {'; '.join(map(str, in_the_way))}" if in_the_way else ""
        return f"{WAITING} {self._what}, since {since}{by}; {self._ends}"

    async def _say(self, text: str | None) -> None:
        if text == self._said:
            return
        if self._said is None and text is not None:
            _log.warning("%s", text, extra={"is_wait": True})
        self._said = text
        if (say := _voice.get()) is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_SAYING_SECONDS):
                    await say(text)


@contextlib.asynccontextmanager
async def waiting(what: str, ends: str) -> AsyncIterator[Wait]:
    """A block that tries again and again, and calls ``goes_on`` in between."""
    wait = Wait(what, ends)
    try:
        yield wait
    finally:
        await wait.is_over()


@contextlib.asynccontextmanager
async def watched(what: str, ends: str, look: Look | None = None) -> AsyncIterator[None]:
    """A block that waits in one go; ``look`` must not use what the block uses."""
    async with waiting(what, ends) as wait:

        async def watch() -> None:
            while True:
                await asyncio.sleep(LOOK_SECONDS / 2)
                await wait.goes_on(look)

        async with beside(watch()):
            yield


@contextlib.asynccontextmanager
async def beside(watch: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """A block beside which somebody watches; what becomes of that is no failure of the block."""
    watching = asyncio.create_task(watch)
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await watching
