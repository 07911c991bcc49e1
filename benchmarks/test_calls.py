"""Single calls under pytest-benchmark: ``make bench-calls``. For P6, P7 and whoever profiles.

The figures of the table come from ``routing`` and ``append``, which let the ways take turns; these
are for looking at one way closely (``--benchmark-compare``, ``py-spy record -- pytest …``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from benchmarks import append, routing
from benchmarks.bench import MAJOR, SETTINGS
from benchmarks.workload import make_store, right
from eventsource.migration import create_schema
from eventsource.stores.interface import EventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster


class Loop:
    """An event loop and a store, reached by the synchronous calls that are timed."""

    def __init__(self, runner: asyncio.Runner, stores: dict[str, EventStore]) -> None:
        self.stores = stores
        self._runner = runner

    def wait(self, work: Awaitable[Any]) -> Any:
        """Run to the end."""
        return self._runner.get_loop().run_until_complete(work)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with Cluster.start(MAJOR, SETTINGS) as cluster, asyncio.Runner() as runner:
        wait = runner.get_loop().run_until_complete
        stack = AsyncExitStack()

        async def prepare() -> dict[str, EventStore]:
            store_dsn, control_dsn = (
                await cluster.create_database("store"),
                await cluster.create_database("control"),
            )
            await make_store(store_dsn)
            async with asyncpg.create_pool(control_dsn, min_size=1, max_size=1) as pool:
                await create_schema(pool)
            return await stack.enter_async_context(routing.opened(store_dsn, control_dsn))

        yield Loop(runner, wait(prepare()))
        wait(stack.aclose())


@pytest.mark.parametrize("way", ["store", "router"])
@pytest.mark.benchmark(group="P6 append of one event to a new stream")
def test_append(benchmark: Any, loop: Loop, way: str) -> None:
    store, number = loop.stores[way], count()

    def once() -> None:
        next(number)
        loop.wait(routing.append(store, uuid4(), 0))

    benchmark.pedantic(once, rounds=400, iterations=1, warmup_rounds=40)
    right(next(number) == 440, "an append was not made")


@pytest.mark.parametrize("way", ["store", "router"])
@pytest.mark.benchmark(group="P6 read of a stream of 20 events")
def test_read(benchmark: Any, loop: Loop, way: str) -> None:
    known = uuid4()
    events = [routing.event(known, number) for number in range(routing.STREAM)]
    loop.wait(loop.stores["store"].append_events(known, "Order", events, 0))
    store = loop.stores[way]
    benchmark.pedantic(
        lambda: loop.wait(routing.read(store, known, 0)), rounds=400, iterations=1, warmup_rounds=40
    )


@pytest.mark.parametrize("name", ["append_events", "by_hand"])
@pytest.mark.benchmark(group="P7 append_events beside a hand-written transaction")
def test_append_by_hand(benchmark: Any, loop: Loop, name: str) -> None:
    store = loop.stores["store"]
    assert isinstance(store, PostgreSQLEventStore)
    way: Callable[[PostgreSQLEventStore, Any, int], Awaitable[None]] = append.WAYS[name]
    benchmark.pedantic(
        lambda: loop.wait(way(store, uuid4(), 0)), rounds=400, iterations=1, warmup_rounds=40
    )
