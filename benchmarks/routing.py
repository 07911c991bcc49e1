"""P6: what the router adds to a call for a tenant that is not on the move.

Store and router take turns in short blocks on the same table, so that a burst of other load meets
both. Round trips are counted on the wire, on the way to the store and to the routing table.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.bench import Bar, Bench
from benchmarks.round_trips import counted
from benchmarks.workload import make_store, right
from eventsource import DomainEvent, register_event
from eventsource.migration import TenantStoreRouter
from eventsource.migration.repositories import PostgreSQLRoutingRepository
from eventsource.stores.interface import EventStore
from eventsource.stores.postgresql import PostgreSQLEventStore

BAR_PERCENT = 3.0
TENANT = uuid4()
BLOCK = 20
STREAM = 20

Call = Callable[[EventStore, UUID, int], Awaitable[None]]


@register_event("benchmarks.OrderPlaced")
class OrderPlaced(DomainEvent):
    """About as large as the events of workload A."""

    aggregate_type: str = "Order"
    number: int
    text: str


def event(order: UUID, number: int) -> OrderPlaced:
    return OrderPlaced(
        aggregate_id=order, tenant_id=TENANT, actor_id="ann", number=number, text="x" * 200
    )


async def append(store: EventStore, order: UUID, number: int) -> None:
    await store.append_events(order, "Order", [event(order, number)], number)


async def read(store: EventStore, order: UUID, number: int) -> None:
    stream = await store.get_events(order, "Order", tenant_id=TENANT)
    right(stream.version == STREAM, f"read {stream.version} events of {STREAM}")


async def read_without_tenant(store: EventStore, order: UUID, number: int) -> None:
    stream = await store.get_events(order, "Order")
    right(stream.version == STREAM, f"read {stream.version} events of {STREAM}")


CALLS: dict[str, Call] = {
    "append": append,
    "read": read,
    "read_without_tenant": read_without_tenant,
}


@asynccontextmanager
async def opened(store_dsn: str, control_dsn: str) -> AsyncIterator[dict[str, EventStore]]:
    """The store, and the router above that same store."""
    async with (
        asyncpg.create_pool(store_dsn, min_size=1, max_size=2) as pool,
        asyncpg.create_pool(control_dsn, min_size=1, max_size=2) as control,
    ):
        store = PostgreSQLEventStore(pool)
        routes = PostgreSQLRoutingRepository(control)
        async with TenantStoreRouter(store, routes, {"shared": store}) as router:
            yield {"store": store, "router": router}


async def _block(call: Call, store: EventStore, known: UUID) -> list[float]:
    """Seconds of each call of one block."""
    order = uuid4() if call is append else known
    seconds = []
    for number in range(BLOCK):
        began = time.perf_counter()
        await call(store, order, number)
        seconds.append(time.perf_counter() - began)
    return seconds


async def _measure(
    stores: dict[str, EventStore], known: UUID, blocks: int
) -> dict[str, dict[str, list[float]]]:
    """Median microseconds of each block, by call and way; the first block warms up."""
    seen: dict[str, dict[str, list[float]]] = {name: {way: [] for way in stores} for name in CALLS}
    for number in range(blocks + 1):
        for name, call in CALLS.items():
            for way in sorted(stores, reverse=bool(number % 2)):
                median = statistics.median(await _block(call, stores[way], known))
                seen[name][way].append(median * 1e6)
    return {name: {way: values[1:] for way, values in ways.items()} for name, ways in seen.items()}


async def _count(store_dsn: str, control_dsn: str, known: UUID) -> dict[str, dict[str, float]]:
    """Round trips per call, by call and way; both databases are seen."""
    found: dict[str, dict[str, float]] = {name: {} for name in CALLS}
    async with (
        counted(store_dsn) as to_store,
        counted(control_dsn) as to_control,
        opened(to_store.dsn, to_control.dsn) as stores,
    ):
        for name, call in CALLS.items():
            for way, store in stores.items():
                await _block(call, store, known)
                before = to_store.count, to_control.count
                await _block(call, store, known)
                # The router's keeper reads the routes once a second beside the calls; a call
                # that asked for its route would do so every time.
                asked = to_control.count - before[1]
                found[name][way] = (to_store.count - before[0]) / BLOCK
                found[name][f"{way}_control"] = asked // BLOCK
    return found


async def run(bench: Bench) -> dict[str, Any]:
    store_dsn, control_dsn = await bench.target.create_database(), await bench.database("control")
    blocks = max(100, min(400, bench.scale // 2500))
    known = uuid4()
    try:
        await make_store(store_dsn)
        async with opened(store_dsn, control_dsn) as stores:
            events = [event(known, number) for number in range(STREAM)]
            await stores["store"].append_events(known, "Order", events, 0)
            with bench.timed(f"{blocks} blocks of {BLOCK} calls each"):
                seen = await _measure(stores, known, blocks)
        await _check(store_dsn, 2 * (blocks + 1) * BLOCK + STREAM)
        trips = await _count(store_dsn, control_dsn, known)
    finally:
        await bench.drop(store_dsn)
        await bench.drop(control_dsn)
    return {
        "microseconds": {
            name: {way: round(statistics.median(values), 1) for way, values in ways.items()}
            for name, ways in seen.items()
        },
        "round_trips": trips,
        "blocks": blocks,
        "bars": [_bar(name, seen[name], trips[name]).as_dict() for name in CALLS],
    }


def _bar(name: str, ways: dict[str, list[float]], trips: dict[str, float]) -> Bar:
    # Neighbouring blocks are compared: what slows the machine down slows both.
    ratios = [router / store for router, store in zip(ways["router"], ways["store"], strict=True)]
    percent = (statistics.median(ratios) - 1) * 100
    extra = trips["router"] - trips["store"] + trips["router_control"]
    medians = {way: statistics.median(values) for way, values in ways.items()}
    measured = (
        f"{percent:+.1f} % ({medians['router']:.0f} and {medians['store']:.0f} µs),"
        f" {extra:.0f} extra round trips"
    )
    if name == "read_without_tenant":
        return Bar("", "router, a read that does not name its tenant", measured, "", None)
    met = percent <= BAR_PERCENT and extra == 0
    return Bar("P6", f"router over the bare store, {name}", measured,
               f"≤ {BAR_PERCENT:.0f} %, 0 extra round trips", met)  # fmt: skip


async def _check(dsn: str, events: int) -> None:
    connection = await asyncpg.connect(dsn)
    [found] = await connection.fetch(
        "select sum(events) as events, bool_and(events = last) as gapless from"
        " (select count(*) as events, max(version) as last from events group by aggregate_id) s"
    )
    await connection.close()
    right(found["events"] == events and found["gapless"], f"{found}, expected {events} events")
