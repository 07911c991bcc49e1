"""P12: one large committed transaction of the tenant, while its move has not been decided.

The servers are set up as servers are run, and the target is in use. The events are written by one
`INSERT … SELECT` at the source, past every router, so that nobody mirrors them. In the first of two
such transactions the writer and the way to the target are timed; after the second, events are
appended one by one, by SQL and through the router, and each is watched until it is at the target.
Beside it the same with logical replication, and, for the writer, with nothing at all.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks import logical
from benchmarks.arrivals import Large, Target, append_until, watching, write_large, write_one
from benchmarks.as_run import cleaned, described, servers, title
from benchmarks.bench import Bar, Bench
from benchmarks.bulk import COMPANION_ROUNDS
from benchmarks.move import process
from benchmarks.processors import used_by
from benchmarks.routing import OrderPlaced
from benchmarks.workload import TENANT, fingerprint, right, shuffled
from eventsource.stores.interface import EventStore

EVENTS = 100_000
APPLY, WRITER, LATE_SECONDS = 1.0, 1.2, 1.0

#: Seconds between two appends of one kind after a large transaction.
EVERY = 0.05

TITLES = {
    "product": "",
    "logical": "logical replication",
    "parallel": "logical replication with streaming = parallel",
}

Seen = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Following:
    """A target that follows the source; ``router`` where an application has one."""

    target_dsn: str
    offset: int = 0
    router: EventStore | None = None


async def run(bench: Bench) -> dict[str, Any]:
    events = min(EVENTS, bench.scale)
    seen: dict[str, list[Seen]] = {name: [] for name in ("alone", *TITLES)}
    async with servers(bench) as served:
        await _alone(served, events)
        for number in range(bench.rounds):
            names = [name for name in seen if name != "parallel" or number < COMPANION_ROUNDS]
            for name in shuffled(names, number):
                with bench.timed(f"round {number + 1}: {name}"):
                    seen[name].append(await _one(served, name, events))
    return {
        "events": events,
        "servers": described(bench),
        "rounds": seen,
        "bars": [bar.as_dict() for bar in _bars(title(bench), events, seen)],
    }


async def _one(bench: Bench, name: str, events: int) -> Seen:
    if name == "alone":
        return await _alone(bench, events)
    async with cleaned(bench) as source:
        following = _moving(bench) if name == "product" else _subscribed(bench, name)
        async with following as at:
            return await _transactions(bench, source, at, events)


async def _alone(bench: Bench, events: int) -> Seen:
    """The writer by itself, with neither a migration nor a subscription."""
    async with cleaned(bench) as source:
        await bench.settle()
        return _of_writer(await write_large(source, events))


@asynccontextmanager
async def _moving(bench: Bench) -> AsyncIterator[Following]:
    target_dsn, control_dsn = await bench.database("in_use_above"), await bench.database("control")
    try:
        async with process(bench.source_dsn, target_dsn, control_dsn) as opened:
            migration = await opened.copied()
            offset = migration.position_offset or 0
            right(offset > 0, "the target was not in use")
            yield Following(target_dsn, offset, opened.router)
    finally:
        await bench.drop(target_dsn)
        await bench.drop(control_dsn)


@asynccontextmanager
async def _subscribed(bench: Bench, name: str) -> AsyncIterator[Following]:
    target_dsn = await bench.database("in_use_above")
    streaming = "parallel" if name == "parallel" else "off"
    try:
        async with logical.subscribed(bench.source_dsn, target_dsn, streaming):
            yield Following(target_dsn)
    finally:
        await bench.drop(target_dsn)


async def _transactions(
    bench: Bench, source: asyncpg.Connection, at: Following, events: int
) -> Seen:
    connection = await asyncpg.connect(at.target_dsn)
    try:
        target = Target(connection, at.offset)
        await bench.settle()
        large = await write_large(source, events)
        worked = _worked(bench)
        arrived = await target.has_all(large)
        worked = _worked(bench) - worked
        late = await _afterwards(bench, source, at, target, events)
        copied = await fingerprint(at.target_dsn, offset=at.offset)
        right(copied == await fingerprint(bench.source_dsn), "the target holds something else")
        figures = {"arrived_seconds": arrived, "arrived_processor_seconds": worked, "late": late}
        return {**_of_writer(large), **figures}
    finally:
        await connection.close()


def _of_writer(large: Large) -> Seen:
    return {
        "writer_seconds": large.seconds,
        "writer_processor_seconds": large.processor_seconds,
    }


def _worked(bench: Bench) -> float:
    """Processor seconds of both servers, and of this process, which is the one that moves."""
    return time.process_time() + used_by([bench.source.postmaster_pid, bench.target.postmaster_pid])


async def _afterwards(
    bench: Bench, source: asyncpg.Connection, at: Following, target: Target, events: int
) -> dict[str, list[float]]:
    """By kind of append, seconds from its answer until it was at the target."""
    await bench.settle()
    ways: dict[str, Callable[[], Awaitable[UUID]]] = {"sql": lambda: write_one(source)}
    if at.router is not None:
        router = at.router
        await _routed(router)
        ways["router"] = lambda: _routed(router)
    async with watching(at.target_dsn) as watch:
        large = await write_large(source, events)
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(append_until(watch, append, done, EVERY))
                for name, append in ways.items()
            }
            await target.has_all(large)
            done.set()
        await watch.all_arrived()
        return {
            name: [round(watch.late[event], 3) for event in task.result()]
            for name, task in tasks.items()
        }


async def _routed(router: EventStore) -> UUID:
    order = uuid4()
    placed = OrderPlaced(
        aggregate_id=order, tenant_id=TENANT, actor_id="ann", number=1, text="x" * 200
    )
    await router.append_events(order, "Order", [placed], 0)
    return placed.event_id


def _bars(where: str, events: int, seen: dict[str, list[Seen]]) -> list[Bar]:
    writer = {name: _median(runs, "writer_seconds") for name, runs in seen.items()}
    arrived = {name: _median(seen[name], "arrived_seconds") for name in TITLES}
    total = {name: _median(seen[name], "writer_seconds", "arrived_seconds") for name in TITLES}
    used = {name: _median(runs, "writer_processor_seconds") for name, runs in seen.items()}
    worked = {name: _median(seen[name], "arrived_processor_seconds") for name in TITLES}
    ratio, cost = arrived["logical"] / arrived["product"], writer["product"] / writer["alone"]
    late = {way: _worst(seen["product"], way) for way in ("sql", "router")}
    return [
        Bar("P12", f"{where}: {events:,} events of one transaction into a target in use",
            f"{events / arrived['product']:,.0f} events/s from its commit on, {ratio:.2f} x logical"
            f" replication; {total['product']:.2f} s from its begin; processor seconds"
            f" {worked['product']:.2f} in {arrived['product']:.2f} s (logical replication"
            f" {worked['logical']:.2f} in {arrived['logical']:.2f} s)",
            f"≥ {APPLY:.1f} x", ratio >= APPLY),
        *(
            Bar("", f"the same by {TITLES[name]}",
                f"{events / arrived[name]:,.0f} events/s from its commit on;"
                f" {total[name]:.2f} s from its begin", "", None)
            for name in ("logical", "parallel")
        ),
        Bar("P12", "its writer, beside the same without a migration",
            f"{writer['product']:.2f} s, {cost:.2f} x (logical replication"
            f" {writer['logical'] / writer['alone']:.2f} x, in parallel"
            f" {writer['parallel'] / writer['alone']:.2f} x); processor seconds of its session"
            f" {used['product']:.2f}, {used['alone']:.2f} without a migration",
            f"≤ {WRITER} x", cost <= WRITER),
        *(
            Bar("P12", f"events appended right after it {how}: at the target",
                f"{_late(seen['product'], way)}{beside}", f"≤ {LATE_SECONDS:.0f} s",
                late[way] <= LATE_SECONDS)
            for way, how, beside in (
                ("sql", "by SQL", f" (logical replication: {_late(seen['logical'], 'sql')})"),
                ("router", "through the router", ""),
            )
        ),
    ]  # fmt: skip


def _median(runs: Sequence[Seen], *parts: str) -> float:
    return float(statistics.median(sum(run[part] for part in parts) for run in runs))


def _all_late(runs: Sequence[Seen], way: str) -> list[float]:
    return [late for run in runs for late in run["late"][way]]


def _worst(runs: Sequence[Seen], way: str) -> float:
    return max(_all_late(runs, way))


def _late(runs: Sequence[Seen], way: str) -> str:
    late = _all_late(runs, way)
    return (
        f"{max(late):.2f} s at most, {statistics.median(late):.2f} s at the median of {len(late)}"
    )
