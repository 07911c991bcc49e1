"""`append_events` of one event against a hand-written asyncpg transaction that writes the same row.

    python benchmarks/append.py [--events 4000] [--json FILE]

Both go through the pool as an application would, in alternating blocks on one server and one table.
The hand-written transaction checks the stream's version and inserts; a second one only inserts.
Before anything is printed the table is read back: every event once, versions without a gap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from eventsource import DomainEvent
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster

# Short blocks, so that a burst of other load on the machine meets every way alike.
BLOCK = 20
TENANT = uuid4()
PAYLOAD: dict[str, Any] = {"number": 1, "text": "x" * 200}

INSERT = """
    insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                        "timestamp", actor_id, payload, metadata)
    values ($1, $2, 'Order', 'OrderPlaced', $3, $4, $5, $6, $7, $8)
    returning global_position
"""
VERSION = """
    select coalesce(max(version), 0) from events where aggregate_id = $1 and aggregate_type = $2
"""


class OrderPlaced(DomainEvent):
    """About as large as the events of workload A."""

    aggregate_type: str = "Order"
    number: int
    text: str


async def by_store(store: PostgreSQLEventStore, order: UUID, version: int) -> None:
    event = OrderPlaced(aggregate_id=order, tenant_id=TENANT, actor_id="ann", **PAYLOAD)
    await store.append_events(order, "Order", [event], version)


async def insert(connection: Any, order: UUID, version: int) -> None:
    now = datetime.now(UTC)
    text = json.dumps(PAYLOAD)
    await connection.fetchval(INSERT, uuid4(), order, TENANT, version + 1, now, "ann", text, "{}")


async def by_hand(store: PostgreSQLEventStore, order: UUID, version: int) -> None:
    async with store.pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(VERSION, order, "Order") == version:
            await insert(connection, order, version)


async def by_hand_unchecked(store: PostgreSQLEventStore, order: UUID, version: int) -> None:
    async with store.pool.acquire() as connection, connection.transaction():
        await insert(connection, order, version)


Way = Callable[[PostgreSQLEventStore, UUID, int], Awaitable[None]]
WAYS: dict[str, Way] = {
    "append_events": by_store,
    "by_hand": by_hand,
    "by_hand_unchecked": by_hand_unchecked,
}


async def measure(store: PostgreSQLEventStore, blocks: int) -> dict[str, list[float]]:
    """Microseconds per append, one number for each block of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(blocks + 1):
        for name, way in WAYS.items():
            order = uuid4()
            started = time.perf_counter()
            for version in range(BLOCK):
                await way(store, order, version)
            seconds[name].append((time.perf_counter() - started) / BLOCK * 1e6)
    return {name: values[1:] for name, values in seconds.items()}


async def check(store: PostgreSQLEventStore, events: int) -> None:
    """Every append of every way is stored once and its stream has no gap."""
    found = await store.pool.fetchrow(
        """
        select sum(events) as events, bool_and(events = last) as gapless
        from (select count(*) as events, max(version) as last from events group by aggregate_id) s
        """
    )
    if found is None or found["events"] != events or not found["gapless"]:
        raise SystemExit(f"wrong answer: {found}, expected {events} events")


async def run(events: int) -> dict[str, Any]:
    blocks = max(events // BLOCK, 5)
    with Cluster.start(18) as cluster:
        async with asyncpg.create_pool(await cluster.create_database(), min_size=1) as pool:
            store = PostgreSQLEventStore(pool)
            await store.create_schema()
            microseconds = await measure(store, blocks)
            await check(store, (blocks + 1) * BLOCK * len(WAYS))
    medians = {name: statistics.median(values) for name, values in microseconds.items()}
    return {
        "microseconds": {name: round(value, 1) for name, value in medians.items()},
        "ratio": round(medians["by_hand"] / medians["append_events"], 3),
        "ratio_unchecked": round(medians["by_hand_unchecked"] / medians["append_events"], 3),
        "blocks": blocks,
        "machine": f"{platform.machine()} {platform.system()} {platform.python_version()}",
        "postgresql": 18,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=4000, help="appends of each way")
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    result = asyncio.run(run(options.events))
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
