"""P14: what a whole move costs where there is little to carry.

Tenants of 10 and of 1,000 events move one after the other in one process, then those of 1,000 three
at once. Beside the time on the clock stand the processor's time, of this process and of the
servers, and, counted on the wire in a run of its own, round trips and log-ins for each database:
the clock of a machine that has other work says little.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

from benchmarks.bench import Bar, Bench
from benchmarks.move import DEDICATED, SHARED, Process, process
from benchmarks.processors import used_by
from benchmarks.round_trips import RoundTrips, counted
from benchmarks.waves import AT_ONCE, copy_of, digests
from benchmarks.workload import build, right

SECONDS, A_SECOND = 0.10, 10.0

#: Events of a tenant.
SIZES = (10, 1_000)

#: Moves before the first that counts: sessions are open then, and statements are planned.
FIRST = 3

#: Moves whose round trips are counted.
COUNTED = 5


async def run(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    many = max(10, min(200, bench.scale // 5_000))
    for events in SIZES:
        tenants = [uuid4() for _ in range(FIRST + many)]
        template = f"template_{events}_each"
        with bench.timed(f"{len(tenants)} tenants of {events:,} events"):
            dsn = await bench.source.create_database(template)
            await build(dsn, events, tuple(tenants))
            expected = await digests(dsn)
        rounds = []
        for number in range(bench.rounds):
            with bench.timed(f"{events:,} events, round {number + 1}"):
                rounds.append(await _one(bench, template, tenants, expected, at_once=1))
        with bench.timed(f"{events:,} events, counted"):
            trips = await _counted(bench, template, tenants)
        found[str(events)] = {"rounds": rounds, "round_trips": trips}
        bars += _bars(events, rounds, trips)
        if events == SIZES[-1]:
            with bench.timed(f"{events:,} events, {AT_ONCE} at once"):
                together = await _one(bench, template, tenants, expected, at_once=AT_ONCE)
            found["at_once"] = together
            rate = 1 / together["seconds"]
            bars.append(
                Bar(
                    "P14", f"{many} tenants of {events:,} events by one process, {AT_ONCE} at once",
                    f"{rate:.1f} tenants/s", f"≥ {A_SECOND:.0f} a second", rate >= A_SECOND,
                ).as_dict()
            )  # fmt: skip
    return {"cases": found, "bars": bars}


def _bars(
    events: int, rounds: Sequence[dict[str, float]], trips: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    seconds, ours, servers = (
        statistics.median(each[name] for each in rounds)
        for name in ("seconds", "process_seconds", "server_seconds")
    )
    asked = events == SIZES[-1]
    what = f"a whole move of {events:,} events, one after the other"
    wire = ", ".join(f"{name} {each['round_trips']:.0f}" for name, each in trips.items())
    log_ins = sum(each["log_ins"] for each in trips.values())
    return [
        Bar(
            "P14", what,
            f"{seconds:.3f} s; processor {ours:.3f} s here, {servers:.3f} s of the servers",
            f"≤ {SECONDS:.2f} s" if asked else "", seconds <= SECONDS if asked else None,
        ).as_dict(),
        Bar("P14", f"{what}: on the wire", f"round trips: {wire}; {log_ins:.1f} log-ins", "", None)
        .as_dict(),
    ]  # fmt: skip


async def _one(
    bench: Bench, template: str, tenants: Sequence[UUID], expected: list[Any], at_once: int
) -> dict[str, float]:
    """Seconds for each move, by the clock and of the processors; every tenant arrives as it was."""
    async with AsyncExitStack() as stack:
        source, target, control = await _databases(bench, template, stack)
        await bench.settle()
        opened = await stack.enter_async_context(process(source, target, control))
        await _move(opened, tenants[:FIRST], at_once)
        postmasters = {bench.source.postmaster_pid, bench.target.postmaster_pid}
        began, ours, theirs = time.monotonic(), time.process_time(), used_by(postmasters)
        await _move(opened, tenants[FIRST:], at_once)
        figures = {
            "seconds": time.monotonic() - began,
            "process_seconds": time.process_time() - ours,
            "server_seconds": used_by(postmasters) - theirs,
        }
        right(await digests(target) == expected, "the target holds something else")
        return {name: value / (len(tenants) - FIRST) for name, value in figures.items()}


async def _counted(
    bench: Bench, template: str, tenants: Sequence[UUID]
) -> dict[str, dict[str, float]]:
    """Round trips and log-ins of one move, by database."""
    async with AsyncExitStack() as stack:
        dsns = await _databases(bench, template, stack)
        relays = [await stack.enter_async_context(counted(dsn)) for dsn in dsns]
        source, target, control = (relay.dsn for relay in relays)
        opened = await stack.enter_async_context(process(source, target, control))
        await _move(opened, tenants[:FIRST], 1)
        before = [(relay.count, relay.log_ins) for relay in relays]
        await _move(opened, tenants[FIRST : FIRST + COUNTED], 1)

        def each(relay: RoundTrips, count: int, log_ins: int) -> dict[str, float]:
            return {
                "round_trips": (relay.count - count) / COUNTED,
                "log_ins": (relay.log_ins - log_ins) / COUNTED,
            }

        names = ("source", "target", "control")
        return {
            name: each(relay, *counts)
            for name, relay, counts in zip(names, relays, before, strict=True)
        }


async def _databases(bench: Bench, template: str, stack: AsyncExitStack) -> tuple[str, str, str]:
    """Source, target and control, dropped at the end."""
    dsns = (
        await copy_of(bench, template),
        await bench.database("store"),
        await bench.database("control"),
    )
    for dsn in dsns:
        stack.push_async_callback(bench.drop, dsn)
    return dsns


async def _move(opened: Process, tenants: Sequence[UUID], at_once: int) -> None:
    waiting = iter(tenants)

    async def move_on() -> None:
        for tenant in waiting:
            await opened.coordinator.move(tenant, SHARED, DEDICATED, operator="benchmark")

    await asyncio.gather(*(move_on() for _ in range(at_once)))
