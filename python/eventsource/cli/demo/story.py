"""The demonstration from beginning to end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from eventsource.cli import views
from eventsource.cli.config import load
from eventsource.cli.demo import servers
from eventsource.cli.demo.projections import Projections
from eventsource.cli.demo.result import DemoResult, Latencies, untouched
from eventsource.cli.demo.servers import DEDICATED, SHARED, DemoError, World
from eventsource.cli.display import Display, display_for
from eventsource.cli.journey import Journey
from eventsource.cli.output import Output
from eventsource.cli.report import making
from eventsource.cli.workspace import Workspace
from eventsource.counts import counted
from eventsource.migration import Migration, create_schema
from eventsource.testing import (
    WriterConfig,
    WriterProcess,
    check_returned,
    check_unmoved,
    read_rows,
)
from eventsource.testing.records import clock

if TYPE_CHECKING:
    from eventsource.testing import Attempt
    from eventsource.testing.invariants import Row

OPERATOR = "demo"


@dataclass(frozen=True, slots=True)
class Extent:
    """How large the demonstration is.

    Attributes:
        events: of the moving tenant before the writers begin.
        seconds: how long the writers go on before the move and after it.
        processes, tasks: writer processes, and concurrent tasks in each.
    """

    events: int = 120_000
    seconds: float = 3.0
    processes: int = 3
    tasks: int = 4


@dataclass(slots=True)
class Moved:
    """What the move left for the checker."""

    journey: Journey
    projections: Projections
    returned: Migration
    cutover_asked: float
    cutover_done: float
    attempts: list[Attempt]


async def play(
    extent: Extent,
    out: Output,
    afterwards: Callable[[DemoResult, Path], Awaitable[None]],
    report: Path | None = None,
) -> DemoResult:
    """Run it all and return the numbers; whatever happens, servers and processes end with it.

    Args:
        afterwards: called with the result and the path of the configuration while the servers
            still run.
        report: where to keep the report of the return (HTML); by default it goes with the servers.

    Raises:
        DemoError: servers or writers did not work here.
    """
    began = time.monotonic()
    with display_for(out) as display:
        display.waiting("servers", "starting PostgreSQL 16 and 18")
        async with servers.start() as world:
            display.say("servers", "PostgreSQL 16 (shared store, control) and 18 (dedicated store)")
            configuration = world.write_configuration()
            async with Workspace.open(load(configuration), out, OPERATOR) as at:
                baseline = await _prepare(at, world, extent, display)
                moved = await _move(at, world, extent, display)
                display.waiting("check", "reading both servers with plain SQL")
                file = report or world.directory / "report.html"
                digest = await _report(at, moved, file, display)
                result = await _check(world, moved, baseline, digest, began)
                display.settle()
            await afterwards(result, configuration)
            return result


async def _prepare(
    at: Workspace, world: World, extent: Extent, display: Display
) -> dict[str, list[Row]]:
    """Tables and history; returns what is there before any writer, by tenant."""
    total = extent.events + extent.events // servers.OTHERS_SHARE * len(world.others)
    display.waiting(
        "seed", f"writing {counted(total, 'event')} of {counted(len(world.tenants), 'tenant')}"
    )
    await create_schema(at.control)
    for store in at.stores.values():
        await store.create_schema()
    await at.checkpoints.create_schema()
    await servers.seed(world.shared_dsn, world.moving, world.others, extent.events)
    source = world.addresses[SHARED]
    baseline = {str(tenant): await read_rows(source, tenant) for tenant in world.tenants}
    display.say("seed", f"{counted(total, 'event')} of {counted(len(world.tenants), 'tenant')}")
    return baseline


async def _move(at: Workspace, world: World, extent: Extent, display: Display) -> Moved:
    """Writers throughout; the tenant moves, its subscriptions follow, and it returns."""
    projections = Projections(
        world.moving, SHARED, DEDICATED, at.stores[SHARED], at.stores[DEDICATED], at.checkpoints
    )
    try:
        processes = counted(extent.processes, "process", "processes")
        display.waiting("writers", f"starting {processes}")
        async with _writers(world, extent) as writers:
            await projections.begin(at.router)
            display.say("writers", f"{processes}, {counted(extent.tasks, 'task')} each")
            await asyncio.sleep(extent.seconds)
            journey = Journey(at, world.moving, SHARED, DEDICATED, display)
            display.say("tenant", f"{world.moving} moves from {SHARED!r} to {DEDICATED!r}")
            await journey.begin()
            await journey.copy()
            await journey.catch_up()
            await journey.verify()
            await projections.stop()
            asked = clock()
            migration = await journey.cut_over()
            done = clock()
            await projections.carry_over(at.subscriptions, migration.id, OPERATOR)
            display.say("follow", "subscriptions go on at the target, so do the writers")
            await asyncio.sleep(extent.seconds)
            returned = await _return(at, migration, projections, display)
            await asyncio.sleep(extent.seconds)
        await projections.finish()
    finally:
        await projections.cancel()
    attempts = [attempt for writer in writers for attempt in writer.attempts()]
    return Moved(journey, projections, returned, asked, done, attempts)


async def _return(
    at: Workspace, migration: Migration, projections: Projections, display: Display
) -> Migration:
    """Take the tenant back, with what it has appended since."""
    display.waiting("return", "carrying back what was appended since")
    await projections.end_stay()
    returned = await at.coordinator.return_migration(migration.id, operator=OPERATOR)
    display.settle()
    display.say("return", f"{views.moved(returned)} again")
    return returned


@contextlib.asynccontextmanager
async def _writers(world: World, extent: Extent) -> AsyncIterator[list[WriterProcess]]:
    configs = [
        WriterConfig(
            name=f"writer-{number}",
            stores=world.addresses,
            source=SHARED,
            tenants=list(world.tenants),
            control_dsn=world.control_dsn,
            tasks=extent.tasks,
            max_events=4,
            seed=number,
            directory=world.directory,
        )
        for number in range(1, extent.processes + 1)
    ]
    started: list[WriterProcess] = []

    def start(config: WriterConfig) -> None:
        started.append(WriterProcess.start(config))

    try:
        await asyncio.gather(*(asyncio.to_thread(start, config) for config in configs))
        # Most of what they write is the moving tenant's.
        started[0].focus(world.moving)
        yield started
        await asyncio.gather(*(asyncio.to_thread(writer.stop) for writer in started))
    except (RuntimeError, TimeoutError) as error:
        raise DemoError(str(error)) from error
    finally:
        for writer in started:
            if writer.is_running:
                writer.kill()


async def _report(at: Workspace, moved: Moved, file: Path, display: Display) -> str:
    """Write the report of the return, and compare the file with its digest and the audit log."""
    await making.write(at, moved.returned.id, file)
    found = await making.find(at, await asyncio.to_thread(file.read_bytes))
    display.say("report", f"of migration {found.migration_id}, with its digest in the audit log")
    return found.sha256


async def _check(
    world: World, moved: Moved, baseline: dict[str, list[Row]], digest: str, began: float
) -> DemoResult:
    """Ask the checker, which reads both servers without the product."""
    migration = moved.journey.migration
    assert migration is not None
    shared, dedicated = world.addresses[SHARED], world.addresses[DEDICATED]
    report = await check_returned(
        home=shared,
        left=dedicated,
        control_dsn=world.control_dsn,
        tenant_id=world.moving,
        migration_id=moved.returned.id,
        attempts=moved.attempts,
        baseline=baseline[str(world.moving)],
    )
    bystanders = [
        await check_unmoved(
            store=shared,
            tenant_id=tenant,
            attempts=moved.attempts,
            baseline=baseline[str(tenant)],
            elsewhere=[dedicated],
            # Failed appends count; how long they took is in the table.
            longest_append_seconds=inf,
        )
        for tenant in world.others
    ]
    others_untouched, others_appended, others_violations = untouched(bystanders)
    return DemoResult(
        events_copied=moved.journey.copied,
        copy_seconds=moved.journey.copy_seconds,
        events_per_second=moved.journey.events_per_second or 0.0,
        pause_ms=migration.cutover_pause_ms,
        latencies=Latencies.of(moved.attempts, moved.cutover_asked, moved.cutover_done),
        acknowledged=report.acknowledged + report.preloaded,
        found=report.found,
        lost=report.lost,
        violations=tuple(str(violation) for violation in report.violations),
        others_untouched=others_untouched,
        others_appended=others_appended,
        others_violations=others_violations,
        skipped=moved.projections.skipped,
        redelivered=moved.projections.redelivered,
        redelivered_predicted=moved.projections.predicted,
        followed=moved.projections.followed,
        returned_pause_ms=moved.returned.cutover_pause_ms,
        written_since=report.written_at_target,
        report_sha256=digest,
        seconds=time.monotonic() - began,
    )
