"""Single statements that begin again when their snapshot turns out too old."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

if TYPE_CHECKING:
    from eventsource.connections import Executor

T = TypeVar("T")

#: A statement alone in its transaction collides a few times at most.
ATTEMPTS: Final = 20


class Retried:
    """An executor over a pool whose role or database may default to a frozen snapshot.

    Each statement is a transaction of its own, so one that failed to serialize has done nothing and
    may be run again as it is. On a connection within a transaction it may not: the error stands.

    Attributes:
        executor: what it is over, for code that begins a transaction with an isolation of its own.
    """

    __slots__ = ("executor",)

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> list[Any]:
        """As the executor does."""
        return await self._run(lambda: self.executor.fetch(query, *args, timeout=timeout))

    async def fetchrow(self, query: str, *args: object) -> Any:
        """As the executor does."""
        return await self._run(lambda: self.executor.fetchrow(query, *args))

    async def fetchval(self, query: str, *args: object, timeout: float | None = None) -> Any:
        """As the executor does."""
        return await self._run(lambda: self.executor.fetchval(query, *args, timeout=timeout))

    async def execute(self, query: str, *args: object) -> str:
        """As the executor does."""
        return await self._run(lambda: self.executor.execute(query, *args))

    async def _run(self, statement: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, ATTEMPTS):
            try:
                return await statement()
            except asyncpg.SerializationError:
                if self._in_transaction():
                    raise
            await asyncio.sleep(random.uniform(0, 0.005 * attempt))
        return await statement()

    def _in_transaction(self) -> bool:
        return isinstance(self.executor, asyncpg.Connection) and self.executor.is_in_transaction()
