"""Faults that wait for their moment: a statement of a client, a reply of the server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from eventsource.testing.proxy.session import Session

#: Chooses connections.
Where = Callable[[Session], bool]


def everywhere(session: Session) -> bool:
    return True


def named(application_name: str) -> Where:
    """Chooses the connections with this ``application_name``."""
    return lambda session: session.application_name == application_name


@dataclass(slots=True, eq=False)
class Trap:
    """Something that happens when a matching statement or reply comes by. Made by `Proxy`.

    Attributes:
        fate: what happens: ``hold`` or ``cut`` a statement, or ``lose`` a reply.
        hits: how often it has happened.
    """

    fate: Literal["hold", "cut", "lose"]
    matches: Callable[[Session, str], bool]
    where: Where = everywhere
    times: int | None = 1
    hits: int = 0
    _hit: threading.Condition = field(default_factory=threading.Condition)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _release: Callable[[], None] = lambda: None

    def wait(self, hits: int = 1, timeout: float = 60.0) -> None:
        """Block until it has happened so often; TimeoutError after so many seconds."""
        with self._hit:
            if not self._hit.wait_for(lambda: self.hits >= hits, timeout):
                raise TimeoutError(f"the trap was hit {self.hits} times in {timeout:g} s")

    async def reached(self, hits: int = 1, timeout: float = 60.0) -> None:
        """The same for a coroutine."""
        await asyncio.to_thread(self.wait, hits, timeout)

    def release(self) -> None:
        """Let what is held go on, and hold nothing more."""
        self.times = 0
        self._release()

    def disarm(self) -> None:
        """Do nothing more; what is held stays held."""
        self.times = 0

    def springs(self, session: Session, text: str) -> bool:
        """Whether it happens now; counts it. Called by the proxy's thread only."""
        spent = self.times is not None and self.hits >= self.times
        if spent or not self.where(session) or not self.matches(session, text):
            return False
        with self._hit:
            self.hits += 1
            self._hit.notify_all()
        return True

    async def passed(self) -> None:
        """Until it is released."""
        await self._released.wait()


def containing(statement: str | Callable[[Session, str], bool]) -> Callable[[Session, str], bool]:
    """A predicate for statements: one that was given, or for those that contain a text."""
    if not isinstance(statement, str):
        return statement
    wanted = statement.lower()
    return lambda session, text: wanted in text.lower()
