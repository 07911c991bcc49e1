"""P18: what a rehearsal foretells, under more writers than two processors can serve.

Each of twenty tenants is rehearsed and then cut over while 24 tasks in three processes append. A
rehearsal has to fit into its budget without an error for anybody, and the fence's time that it
foretells is set beside the one that the cutover then took.
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

from benchmarks.bench import Bar, Bench
from benchmarks.cutover import (
    AFTERWARDS,
    BEFORE_START,
    MANY,
    NORMAL,
    TENANTS,
    Servers,
    pause_of,
    seed,
    writing,
)
from benchmarks.move import Process, process
from benchmarks.workload import make_store, right
from eventsource.migration import CutoverTimeoutError, MigrationConfig
from eventsource.testing import Attempt, Outcome, StoreAddress, check_moved, read_rows

#: Rehearsals of each tenant; the last one is what the product shows.
REHEARSALS = 3

#: A prediction is right within this factor, and so often it has to be.
FACTOR, RIGHT = 2.0, 18


@dataclass(frozen=True, slots=True)
class Foretold:
    """One tenant: the fence's time in its rehearsals (None: over the budget) and in the cutover."""

    tenant: UUID
    migration: UUID
    rehearsed_ms: tuple[float | None, ...]
    pause_ms: float

    @property
    def fits(self) -> bool:
        return None not in self.rehearsed_ms

    @property
    def factor(self) -> float:
        """How far the last rehearsal was off, at least 1."""
        foretold = self.rehearsed_ms[-1]
        if not foretold or not self.pause_ms:
            return float("inf")
        return max(foretold / self.pause_ms, self.pause_ms / foretold)


async def run(bench: Bench) -> dict[str, Any]:
    tenants = [uuid4() for _ in range(TENANTS)]
    source_dsn = await bench.source.create_database()
    target_dsn, control_dsn = await bench.database("store"), await bench.database("control")
    await make_store(source_dsn)
    try:
        with tempfile.TemporaryDirectory() as directory:
            servers = Servers(
                StoreAddress(source_dsn), StoreAddress(target_dsn), control_dsn, Path(directory),
                MANY,
            )  # fmt: skip
            await seed(source_dsn, tenants, max(bench.scale // 200, 100))
            before = {tenant: await read_rows(servers.source, tenant) for tenant in tenants}
            found, attempts = await _all(bench, servers, tenants)
            for one in found:
                report = await check_moved(
                    source=servers.source, target=servers.target, control_dsn=control_dsn,
                    tenant_id=one.tenant, migration_id=one.migration, attempts=attempts,
                    baseline=before[one.tenant],
                )  # fmt: skip
                right(report.is_clean, f"tenant {one.tenant}: {dict(report.kinds)}")
    finally:
        for dsn in (source_dsn, target_dsn, control_dsn):
            await bench.drop(dsn)
    return _judge(found, attempts)


async def _all(
    bench: Bench, servers: Servers, tenants: Sequence[UUID]
) -> tuple[list[Foretold], list[Attempt]]:
    found = []
    configs = [servers.writer(number, tenants) for number in range(len(servers.tasks))]
    # So that what is found afterwards is that of one move.
    config = MigrationConfig(keep_way_back=0)
    dsns = (servers.source.dsn, servers.target.dsn, servers.control_dsn)
    async with process(*dsns, config) as opened:
        with writing(configs) as writers:
            for number, tenant in enumerate(tenants):
                with bench.timed(f"rehearsals and cutover {number + 1} of {len(tenants)}"):
                    writers[0].focus(tenant)
                    await asyncio.sleep(BEFORE_START)
                    found.append(await _one(opened, tenant))
                    await asyncio.sleep(AFTERWARDS)
    return found, [attempt for writer in writers for attempt in writer.attempts()]


async def _one(opened: Process, tenant: UUID) -> Foretold:
    migration = await opened.copied(tenant)
    await asyncio.sleep(NORMAL)
    rehearsed: list[float | None] = []
    for _ in range(REHEARSALS):
        try:
            rehearsed.append((await opened.coordinator.rehearse_cutover(migration.id)).pause_ms)
        except CutoverTimeoutError:
            rehearsed.append(None)
    done = await opened.coordinator.initiate_cutover(migration.id)
    pause, _ = await pause_of(opened, done)
    return Foretold(tenant, migration.id, tuple(rehearsed), pause)


def _judge(found: Sequence[Foretold], attempts: Sequence[Attempt]) -> dict[str, Any]:
    refused = [a.error for a in attempts if a.outcome is not Outcome.OK]
    errors = [error for error in refused if error and "OptimisticLockError" not in error]
    right(not errors, f"{len(errors)} appends failed, first: {errors[:1]}")
    fitted = sum(one.fits for one in found)
    close = sum(one.factor <= FACTOR for one in found)
    last = [one.rehearsed_ms[-1] or 0.0 for one in found]
    pauses = [one.pause_ms for one in found]
    measured = (
        f"{fitted} of {len(found)} tenants within the budget in each of {REHEARSALS} rehearsals;"
        f" foretold {statistics.median(last):.1f} ms, taken {statistics.median(pauses):.1f} ms"
        f" (medians); within a factor of {FACTOR:g} in {close} of {len(found)}"
    )
    bar = Bar(
        "P18", f"rehearsals under {sum(MANY)} writers", measured,
        f"all within the budget, within a factor of {FACTOR:g} in {RIGHT} of {TENANTS}",
        fitted == len(found) and close >= RIGHT,
    )  # fmt: skip
    foretold = [
        {"rehearsed_ms": one.rehearsed_ms, "pause_ms": round(one.pause_ms, 2)} for one in found
    ]
    return {"foretold": foretold, "bars": [bar.as_dict()]}
