"""P17: what writers notice of a return, however much has been appended since the move.

Eight tasks in three processes append about 1,000 times a second, as for P5. A tenant moves, and
returns at once, after a time of following, or after many new events that nobody has carried yet.
Beside each return its tenant's move is measured, which ran under the same load.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.bench import Bar, Bench
from benchmarks.cutover import (
    AFTERWARDS,
    BEFORE_START,
    EIGHT,
    NORMAL,
    Cut,
    Servers,
    judge_one,
    pause_of,
    seed,
    writing,
)
from benchmarks.move import Process, process
from benchmarks.workload import make_store, right, write_more
from eventsource.migration import MigrationConfig
from eventsource.testing import Attempt, Outcome, check_returned, read_rows
from eventsource.testing import StoreAddress as Address
from eventsource.testing.records import clock

BAR_MS = 50.0

#: At a scale of a million; in proportion at others.
WAIT_SECONDS, NEW_EVENTS = 60.0, 100_000


@dataclass(frozen=True, slots=True)
class Case:
    """How a tenant spends the time between its move and its return."""

    name: str
    seconds: float = 0.0
    events: int = 0


def cases(scale: int) -> list[Case]:
    """The three that the bar is about."""
    share = min(1.0, scale / 1_000_000)
    seconds, events = max(1.0, WAIT_SECONDS * share), max(100, int(NEW_EVENTS * share))
    return [
        Case("at once"),
        Case(f"after {seconds:.0f} s", seconds=seconds),
        Case(f"after {events:,} new events", events=events),
    ]


async def run(bench: Bench) -> dict[str, Any]:
    planned = [case for case in cases(bench.scale) for _ in range(bench.rounds)]
    tenants = [uuid4() for _ in planned]
    source_dsn = await bench.source.create_database()
    target_dsn, control_dsn = await bench.database("store"), await bench.database("control")
    await make_store(source_dsn)
    try:
        with tempfile.TemporaryDirectory() as directory:
            servers = Servers(
                Address(source_dsn), Address(target_dsn), control_dsn, Path(directory), EIGHT
            )
            await seed(source_dsn, tenants, max(bench.scale // 200, 100))
            before = {tenant: await read_rows(servers.source, tenant) for tenant in tenants}
            pairs = list(zip(planned, tenants, strict=True))
            cuts, attempts = await _all(bench, servers, pairs)
            for case, (_, back) in zip(planned, cuts, strict=True):
                report = await check_returned(
                    home=servers.source, left=servers.target, control_dsn=control_dsn,
                    tenant_id=back.tenant, migration_id=back.migration, attempts=attempts,
                    baseline=before[back.tenant],
                )  # fmt: skip
                # No writer knows of the events that were inserted by SQL: there are as many.
                found = {**report.kinds}
                beside = found.pop(("I2", "unattempted"), 0)
                right(not found and beside == case.events, f"{back.tenant}: {report.kinds}")
    finally:
        for dsn in (source_dsn, target_dsn, control_dsn):
            await bench.drop(dsn)
    return _judge(planned, cuts, attempts)


async def _all(
    bench: Bench, servers: Servers, pairs: Sequence[tuple[Case, UUID]]
) -> tuple[list[tuple[Cut, Cut]], list[Attempt]]:
    cuts: list[tuple[Cut, Cut]] = []
    tenants = [tenant for _, tenant in pairs]
    configs = [servers.writer(number, tenants) for number in range(len(servers.tasks))]
    config = MigrationConfig(keep_way_back=3600)
    dsns = (servers.source.dsn, servers.target.dsn, servers.control_dsn)
    async with process(*dsns, config) as opened, process(*dsns, config) as worker:
        # Another process keeps what could return current, as `eventsource-migrate work` does.
        working = asyncio.create_task(worker.coordinator.work())
        with writing(configs) as writers:
            for case, tenant in pairs:
                with bench.timed(f"return {case.name}"):
                    writers[0].focus(tenant)
                    await asyncio.sleep(BEFORE_START)
                    cuts.append(await _one(opened, servers.target.dsn, case, tenant))
                    await asyncio.sleep(AFTERWARDS)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return cuts, [attempt for writer in writers for attempt in writer.attempts()]


async def _one(opened: Process, target_dsn: str, case: Case, tenant: UUID) -> tuple[Cut, Cut]:
    """The move there and the return, in the same load."""
    copied = await opened.copied(tenant)
    asked = clock()
    moved = await opened.coordinator.initiate_cutover(copied.id)
    there = Cut(tenant, moved.id, asked, clock(), *await pause_of(opened, moved))
    await asyncio.sleep(case.seconds)
    if case.events:
        connection = await asyncpg.connect(target_dsn)
        await write_more(connection, tenant, case.events, per_commit=1000)
        await connection.close()
    else:
        # The writers' own normal; where there are many new events they were it already.
        await asyncio.sleep(NORMAL)
    asked = clock()
    done = await opened.coordinator.return_migration(moved.id)
    return there, Cut(tenant, done.id, asked, clock(), *await pause_of(opened, done))


def _judge(
    planned: Sequence[Case], cuts: Sequence[tuple[Cut, Cut]], attempts: Sequence[Attempt]
) -> dict[str, Any]:
    answered = [a for a in attempts if a.outcome is Outcome.OK and a.returned_at is not None]
    refused = [a.error for a in attempts if a.outcome is not Outcome.OK]
    errors = [error for error in refused if error and "OptimisticLockError" not in error]
    right(not errors, f"{len(errors)} appends failed, first: {errors[:1]}")
    each = [
        {"case": case.name, "move": judge_one(there, answered), **judge_one(back, answered)}
        for case, (there, back) in zip(planned, cuts, strict=True)
    ]
    bars = []
    for name in dict.fromkeys(case.name for case in planned):
        of = [one for one in each if one["case"] == name]
        over = [one["over_p99_ms"] for one in of]
        pause = statistics.median(one["pause_ms"] for one in of)
        moved = [one["move"]["over_p99_ms"] for one in of]
        moves_pause = statistics.median(one["move"]["pause_ms"] for one in of)
        measured = (
            f"longest append {max(over):.1f} ms over its writer's p99 (median"
            f" {statistics.median(over):.1f} ms) in {len(of)} returns; fence held {pause:.1f} ms."
            f" Their moves: {max(moved):.1f} ms (median {statistics.median(moved):.1f} ms); fence"
            f" held {moves_pause:.1f} ms"
        )
        met = all(value <= BAR_MS for value in over) and all(one["attempts"] == 1 for one in of)
        bar = Bar("P17", f"return {name}", measured, f"≤ {BAR_MS:.0f} ms over p99, first try", met)
        bars.append(bar.as_dict())
    return {"returns": each, "bars": bars}
