"""P19: a wave of a fleet beside the same moves without one, at the same limits.

Without a wave as many tasks as may move at once each call `move` for one tenant after the other:
nothing is dispatched, recorded or asked for besides. Both run in one process on fresh databases.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.bench import Bar, Bench
from benchmarks.move import DEDICATED, SHARED, Process, process
from benchmarks.workload import build, make_store, right, shuffled, write_more
from eventsource.fleet import Candidate, Carrier, WaveRepository, WaveSettings, WaveState
from eventsource.fleet.queue import Queue, Worker

BAR = 0.9

#: What two servers with PostgreSQL's default of connections have room for.
AT_ONCE = 3

#: Events of a small tenant.
SMALL = 1_000

#: Time for a worker to be ready before there is something to do: it runs as a service (seconds).
READY_SECONDS = 1.5

# Positions are others at the target.
_DIGEST = """
select tenant_id, count(*) as events, sum(hashtextextended(
    (event_id, aggregate_id, event_type, version, payload, metadata)::text, 0))::numeric as digest
from events group by 1 order by 1
"""


def cases(scale: int) -> dict[str, list[int]]:
    """Tenants by their number of events: small ones, and as in a shared store."""
    small = max(12, min(200, scale // 5_000))
    mixed, largest = max(12, min(60, scale // 10_000)), max(2_000, scale // 10)
    return {
        "small": [SMALL] * small,
        "mixed": [max(1, round(largest ** (n / (mixed - 1)))) for n in range(mixed)],
    }


async def run(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {}
    bars = []
    for name, counts in cases(bench.scale).items():
        tenants = [uuid4() for _ in counts]
        template = f"template_{name}"
        with bench.timed(f"{name}: {len(counts)} tenants, {sum(counts):,} events"):
            dsn = await bench.source.create_database(template)
            await _fill(dsn, tenants, counts)
            expected = await digests(dsn)
        rounds: dict[str, list[float]] = {"alone": [], "wave": []}
        for number in range(bench.rounds):
            for peer in shuffled(list(rounds), number):
                with bench.timed(f"{name}, round {number + 1}: {peer}"):
                    rounds[peer].append(await _one(bench, peer, template, tenants, expected))
        seconds = {peer: statistics.median(took) for peer, took in rounds.items()}
        ratio = seconds["alone"] / seconds["wave"]
        found[name] = {"tenants": len(counts), "events": sum(counts), "rounds": rounds}
        bars.append(
            Bar(
                "P19",
                f"a wave of {len(counts)} {name} tenants ({sum(counts):,} events), {AT_ONCE} at"
                " once, beside the same moves without one",
                f"{len(counts) / seconds['wave']:.1f} tenants/s,"
                f" {sum(counts) / seconds['wave']:,.0f} events/s; {ratio:.2f} x",
                f"≥ {BAR} x",
                ratio >= BAR,
            ).as_dict()
        )
    return {"cases": found, "bars": bars}


async def _fill(dsn: str, tenants: Sequence[UUID], counts: Sequence[int]) -> None:
    if len(set(counts)) == 1:
        await build(dsn, counts[0], tuple(tenants))
        return
    await make_store(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        for tenant, count in zip(tenants, counts, strict=True):
            await write_more(connection, tenant, count, per_commit=10_000)
        await connection.execute("vacuum analyze events")
    finally:
        await connection.close()


async def digests(dsn: str) -> list[Any]:
    """Of each tenant the number of rows and a sum over their columns."""
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(_DIGEST)]
    finally:
        await connection.close()


async def _one(
    bench: Bench, peer: str, template: str, tenants: Sequence[UUID], expected: list[Any]
) -> float:
    """Seconds from the first to the last tenant; all of them are at the target, and right."""
    source_dsn = await copy_of(bench, template)
    target_dsn, control_dsn = await bench.database("store"), await bench.database("control")
    try:
        await bench.settle()
        async with process(source_dsn, target_dsn, control_dsn) as opened:
            if peer == "alone":
                took = await _alone(opened, tenants)
            else:
                took = await _wave(opened, control_dsn, tenants)
        right(await digests(target_dsn) == expected, "the target holds something else")
        return took
    finally:
        for dsn in (source_dsn, target_dsn, control_dsn):
            await bench.drop(dsn)


async def copy_of(bench: Bench, template: str) -> str:
    """A fresh database on the source, made from a template."""
    name = f"shared_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(bench.source.dsn())
    try:
        await connection.execute(
            f'create database "{name}" template "{template}" strategy file_copy'
        )
    finally:
        await connection.close()
    return bench.source.dsn(name)


async def _alone(opened: Process, tenants: Sequence[UUID]) -> float:
    waiting, began = iter(tenants), time.monotonic()

    async def move_on() -> None:
        for tenant in waiting:
            await opened.coordinator.move(tenant, SHARED, DEDICATED, operator="benchmark")

    await asyncio.gather(*(move_on() for _ in range(AT_ONCE)))
    return time.monotonic() - began


async def _wave(opened: Process, control_dsn: str, tenants: Sequence[UUID]) -> float:
    waves = WaveRepository(opened.control)
    candidates = [Candidate(tenant, SHARED, DEDICATED) for tenant in tenants]
    wave = await waves.create("night", candidates, WaveSettings())
    async with asyncpg.create_pool(control_dsn, min_size=0, max_size=6) as pool:
        queue = Queue(pool, {DEDICATED: DEDICATED})
        carrier = Carrier(opened.coordinator, waves, "benchmark")
        worker = Worker(carrier, waves, queue, {DEDICATED: AT_ONCE}, AT_ONCE)
        working = asyncio.create_task(worker.run())
        await asyncio.sleep(READY_SECONDS)
        [began] = await waves.fetch("select clock_timestamp() as at")
        await waves.start(wave, "benchmark")
        await queue.refill(waves)
        while (ended := await waves.get(wave.name)).state is not WaveState.DONE:
            right(not working.done(), f"the worker has ended: {working}")
            await asyncio.sleep(0.25)
        worker.stopping.set()
        await working
    assert ended.ended_at is not None
    return float((ended.ended_at - began["at"]).total_seconds())
