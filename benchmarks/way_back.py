"""P16: what a way back costs while it stands by and is followed.

Two tenants live at the target: one may return, and a process of its own follows its way back; of
the other one the way back was closed. Blocks of appends for the one and for the other alternate,
each after everything that was appended before has been carried. Then one tenant is written to at
the bar's rate, and newest events are watched until they are at the store that it could return to.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.append import PAYLOAD, OrderPlaced
from benchmarks.bench import ROOT, Bar, Bench
from benchmarks.cutover import APPENDS_PER_SECOND, EIGHT, Servers, seed, writing
from benchmarks.move import Process, process
from benchmarks.workload import make_store, right
from eventsource.migration import MigrationConfig
from eventsource.testing import StoreAddress

BAR, LAG_SECONDS = 0.95, 1.0

#: Appends of one block, and tasks that make them. A block takes longer than the time between two
#: looks of who follows: in a shorter one that may happen to do nothing.
BLOCK, TASKS = 2000, 4

#: How often the newest event is looked for at the other store, and how long it is waited for.
LOOKS, PATIENCE_SECONDS = 30, 60.0

_FOLLOW = """
import asyncio, sys
from benchmarks.move import process
async def work():
    async with process(*sys.argv[1:]) as opened:
        await opened.coordinator.work(poll_seconds=0.25)
asyncio.run(work())
"""


@dataclass(slots=True)
class Both:
    """Where the two tenants are: ``kept`` may return, ``free`` may not."""

    opened: Process
    kept: UUID
    free: UUID
    streams: int = 0

    async def lag(self) -> int:
        """Events of the tenant that may return which the source does not hold."""
        query = "select count(*) from events where tenant_id = $1"
        there = await self.opened.target.pool.fetchval(query, self.kept)
        return int(there - await self.opened.source.pool.fetchval(query, self.kept))

    async def caught_up(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while await self.lag():
            right(time.monotonic() < deadline, "the way back is not followed")
            await asyncio.sleep(0.02)

    async def block(self, tenant: UUID) -> float:
        """Appends per second for one of them."""

        async def append(count: int) -> None:
            stream = uuid4()
            for version in range(count):
                event = OrderPlaced(
                    aggregate_id=stream, tenant_id=tenant, actor_id="ann", **PAYLOAD
                )
                await self.opened.target.append_events(stream, "Order", [event], version)

        began = time.perf_counter()
        await asyncio.gather(*(append(BLOCK // TASKS) for _ in range(TASKS)))
        self.streams += TASKS
        return BLOCK / (time.perf_counter() - began)


async def run(bench: Bench) -> dict[str, Any]:
    source_dsn = await bench.source.create_database()
    target_dsn, control_dsn = await bench.database("store"), await bench.database("control")
    await make_store(source_dsn)
    dsns = (source_dsn, target_dsn, control_dsn)
    kept, free = uuid4(), uuid4()
    past = max(bench.scale // 100, 100)
    try:
        await seed(source_dsn, [kept, free], past)
        async with process(*dsns, MigrationConfig(keep_way_back=3600)) as opened:
            both = Both(opened, kept, free)
            for tenant in (kept, free):
                moved = await opened.copied(tenant)
                await opened.coordinator.initiate_cutover(moved.id)
            await opened.coordinator.close_way_back(moved.id)
            async with _following(*dsns):
                blocks = max(10, min(40, bench.scale // 25_000))
                with bench.timed(f"{blocks} pairs of blocks"):
                    seen = await _in_turns(both, blocks)
                with bench.timed(f"the lag at {APPENDS_PER_SECOND:,} appends/s"):
                    lags, rate = await _lags(both, dsns)
            wanted = past + both.streams // 2 * (BLOCK // TASKS)
            count = "select count(*) from events where tenant_id = $1"
            found = await opened.target.pool.fetchval(count, free)
            right(found == wanted, f"{found} events of the other tenant, not {wanted}")
    finally:
        for dsn in dsns:
            await bench.drop(dsn)
    return _judge(seen, lags, rate)


@contextlib.asynccontextmanager
async def _following(*dsns: str) -> AsyncIterator[None]:
    """A process of its own that works, as `eventsource-migrate work` does."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _FOLLOW, *dsns, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def _in_turns(both: Both, blocks: int) -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {"followed": [], "closed": []}
    for number in range(blocks + 1):
        names = ["followed", "closed"] if number % 2 else ["closed", "followed"]
        for name in names:
            await both.caught_up()
            rate = await both.block(both.kept if name == "followed" else both.free)
            if number:
                seen[name].append(rate)
    return seen


async def _lags(both: Both, dsns: tuple[str, str, str]) -> tuple[list[float], float]:
    """Seconds until the newest event is at the source too, and the rate of the writers then."""
    newest = (
        "select event_id from events where tenant_id = $1 order by global_position desc limit 1"
    )
    source = await asyncpg.connect(dsns[0])
    seconds = []
    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(
            StoreAddress(dsns[0]), StoreAddress(dsns[1]), dsns[2], Path(directory), EIGHT
        )
        configs = [servers.writer(number, [both.kept]) for number in range(len(EIGHT))]
        with writing(configs) as writers:
            writers[0].focus(both.kept)
            await asyncio.sleep(2)
            before = await both.opened.target.pool.fetchval("select count(*) from events")
            began = time.monotonic()
            for _ in range(LOOKS):
                event = await both.opened.target.pool.fetchval(newest, both.kept)
                asked = time.monotonic()
                while not await source.fetchval("select 1 from events where event_id = $1", event):
                    right(time.monotonic() - asked < PATIENCE_SECONDS, "nobody follows")
                    await asyncio.sleep(0.01)
                seconds.append(time.monotonic() - asked)
            after = await both.opened.target.pool.fetchval("select count(*) from events")
            rate = (after - before) / (time.monotonic() - began)
    await source.close()
    return seconds, rate


def _judge(seen: dict[str, list[float]], lags: list[float], rate: float) -> dict[str, Any]:
    pairs = zip(seen["followed"], seen["closed"], strict=True)
    ratio = statistics.median(followed / closed for followed, closed in pairs)
    medians = {name: statistics.median(rates) for name, rates in seen.items()}
    cost = Bar(
        "P16", "appends of a tenant whose way back is followed",
        f"{ratio:.3f} x ({medians['followed']:,.0f} and {medians['closed']:,.0f}/s,"
        f" {len(seen['closed'])} pairs of blocks)",
        f"≥ {BAR} x without", ratio >= BAR,
    )  # fmt: skip
    lag = Bar(
        "P16", f"lag of a way back at {rate:,.0f} events/s",
        f"median {statistics.median(lags):.2f} s, longest {max(lags):.2f} s of {len(lags)} looks",
        f"< {LAG_SECONDS:.0f} s", max(lags) < LAG_SECONDS,
    )  # fmt: skip
    rounded = {name: [round(each, 1) for each in rates] for name, rates in seen.items()}
    return {
        "ratio": round(ratio, 4),
        "lag_seconds": [round(each, 3) for each in lags],
        "events_per_second": round(rate),
        "rounds": rounded,
        "bars": [cost.as_dict(), lag.as_dict()],
    }
