"""P5: what writers notice of a cutover.

Eight tasks in three processes append about 1,000 times a second, nine in ten to the tenant that is
being moved; twenty tenants move, one after the other. Every append is recorded by its process
before it is made and after it is answered, and the independent checker reads both servers
afterwards. The same once more with three times as many tasks, more than two processors can serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.bench import Bar, Bench
from benchmarks.machine import processor_seconds
from benchmarks.move import DEDICATED, SHARED, Process, process
from benchmarks.workload import make_store, right, write_more
from eventsource.migration import Migration
from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.testing import (
    Attempt,
    Outcome,
    StoreAddress,
    WriterConfig,
    WriterProcess,
    check_moved,
    read_rows,
)
from eventsource.testing.records import clock

BAR_MS = 50.0
APPENDS_PER_SECOND = 1000
TENANTS = 20

#: Tasks of each process: as the bar has it, and more than that.
EIGHT, MANY = (3, 3, 2), (8, 8, 8)

#: Seconds of writing before a move, in dual-write before the cutover (the writers' own normal),
#: and after the cutover.
BEFORE_START, NORMAL, AFTERWARDS = 0.5, 2.0, 0.5

#: Upper ends of the histogram's bins, in milliseconds: seven per factor of ten.
BINS = [round(0.1 * 10 ** (step / 7), 3) for step in range(1, 29)]


@dataclass(frozen=True, slots=True)
class Cut:
    """One cutover. Times are of the clock that the writers use.

    ``busy`` is the share of all processors' time that was used in the two seconds before it, by
    anybody: where it comes near 1, latencies measure the wait for a processor.
    """

    tenant: UUID
    migration: UUID
    asked_at: float
    returned_at: float
    pause_ms: float
    attempts: int
    busy: float | None = None


@dataclass(slots=True)
class Servers:
    """Three databases of one run of this benchmark."""

    source: StoreAddress
    target: StoreAddress
    control_dsn: str
    directory: Path
    tasks: Sequence[int]

    def writer(self, number: int, tenants: Sequence[UUID]) -> WriterConfig:
        return WriterConfig(
            name=f"writer-{number}",
            stores={SHARED: self.source, DEDICATED: self.target},
            source=SHARED,
            control_dsn=self.control_dsn,
            tenants=list(tenants),
            tasks=self.tasks[number],
            max_events=2,
            # Appends and nothing else, to so many streams that a task rarely meets another one:
            # neither reads nor conflicts are what is measured.
            expect_any=1.0,
            shared_streams=1000,
            appends_per_second=APPENDS_PER_SECOND / sum(self.tasks),
            focus=0.9,
            seed=number,
            directory=self.directory,
        )


async def run(bench: Bench) -> dict[str, Any]:
    result = await _run(bench, EIGHT)
    more = await _run(bench, MANY)
    beside = {**more.pop("bars")[0], "id": "", "bar": "", "met": None}
    return {**result, "bars": [*result["bars"], beside], "many": more}


async def _run(bench: Bench, tasks: Sequence[int]) -> dict[str, Any]:
    tenants = [uuid4() for _ in range(TENANTS)]
    past = max(bench.scale // 200, 100)
    source_dsn = await bench.source.create_database()
    target_dsn, control_dsn = await bench.database("store"), await bench.database("control")
    await make_store(source_dsn)
    try:
        with tempfile.TemporaryDirectory() as directory:
            servers = Servers(
                StoreAddress(source_dsn),
                StoreAddress(target_dsn),
                control_dsn,
                Path(directory),
                tasks,
            )
            with bench.timed(f"{TENANTS} tenants with {past:,} events each"):
                await seed(source_dsn, tenants, past)
            baseline = {tenant: await read_rows(servers.source, tenant) for tenant in tenants}
            cuts, attempts = await _move_all(bench, servers, tenants)
            with bench.timed("check"):
                for cut in cuts:
                    report = await check_moved(
                        source=servers.source, target=servers.target, control_dsn=control_dsn,
                        tenant_id=cut.tenant, migration_id=cut.migration, attempts=attempts,
                        baseline=baseline[cut.tenant],
                    )  # fmt: skip
                    right(report.is_clean, f"tenant {cut.tenant}: {dict(report.kinds)}")
    finally:
        for dsn in (source_dsn, target_dsn, control_dsn):
            await bench.drop(dsn)
    return _judge(cuts, attempts, tasks)


async def seed(dsn: str, tenants: Sequence[UUID], past: int) -> None:
    """Give each tenant a past of so many events, in streams of one event each."""
    connection = await asyncpg.connect(dsn)
    for tenant in tenants:
        await write_more(connection, tenant, past, per_commit=past)
    await connection.execute("vacuum analyze events")
    await connection.close()


@contextlib.contextmanager
def writing(configs: Sequence[WriterConfig]) -> Iterator[list[WriterProcess]]:
    """Writer processes until the end of the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(WriterProcess.start(config)) for config in configs]


async def _move_all(
    bench: Bench, servers: Servers, tenants: Sequence[UUID]
) -> tuple[list[Cut], list[Attempt]]:
    cuts = []
    configs = [servers.writer(number, tenants) for number in range(len(servers.tasks))]
    async with process(servers.source.dsn, servers.target.dsn, servers.control_dsn) as opened:
        with writing(configs) as writers:
            for number, tenant in enumerate(tenants):
                with bench.timed(f"cutover {number + 1} of {TENANTS}"):
                    writers[0].focus(tenant)
                    await asyncio.sleep(BEFORE_START)
                    cuts.append(await _cut(opened, tenant))
                    await asyncio.sleep(AFTERWARDS)
    return cuts, [attempt for writer in writers for attempt in writer.attempts()]


async def _cut(opened: Process, tenant: UUID) -> Cut:
    migration = await opened.copied(tenant)
    before = processor_seconds()
    await asyncio.sleep(NORMAL)
    busy = _busy(before, processor_seconds())
    asked = clock()
    # A cutover that does not come through raises; the first try is the only one.
    done = await opened.coordinator.initiate_cutover(migration.id)
    returned = clock()
    return Cut(tenant, migration.id, asked, returned, *await pause_of(opened, done), busy)


def _busy(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None:
        return None
    return round((after[0] - before[0]) / (after[1] - before[1]), 3)


async def pause_of(opened: Process, migration: Migration) -> tuple[float, int]:
    """The pause by the driver's own count, and how often it asked for the lock."""
    audit = PostgreSQLAuditLogRepository(opened.control)
    for _ in range(50):
        for entry in await audit.get_by_migration(migration.id):
            if entry.event_type == "cutover":
                return entry.details["pause_ms"], entry.details["attempts"]
        # Written after the answer that `initiate_cutover` waits for.
        await asyncio.sleep(0.02)
    raise RuntimeError("the audit log does not tell of the cutover")


def _judge(
    cuts: Sequence[Cut], attempts: Sequence[Attempt], tasks: Sequence[int]
) -> dict[str, Any]:
    answered = [a for a in attempts if a.outcome is Outcome.OK and a.returned_at is not None]
    refused = [a.error for a in attempts if a.outcome is not Outcome.OK]
    errors = [error for error in refused if error and "OptimisticLockError" not in error]
    each = [judge_one(cut, answered) for cut in cuts]
    over = [one["over_p99_ms"] for one in each]
    within = sum(value <= BAR_MS for value in over)
    without = [one["without_ms"] for one in each]
    first_try = sum(cut.attempts == 1 for cut in cuts)
    right(not errors, f"{len(errors)} appends failed, first: {errors[:1]}")
    pause = statistics.median(cut.pause_ms for cut in cuts)
    measured = (
        f"longest append {max(over):.1f} ms over its writer's p99 (median"
        f" {statistics.median(over):.1f} ms), within {BAR_MS:.0f} ms in {within} of {len(cuts)},"
        f" first try in {first_try}; pause {pause:.1f} ms; {_rate(cuts, answered):,.0f} appends/s"
    )
    if busy := [cut.busy for cut in cuts if cut.busy is not None]:
        measured += f", processors {statistics.median(busy):.0%} busy"
    measured += (
        f"; as long before, without a cutover: {max(without):.1f} ms (median"
        f" {statistics.median(without):.1f} ms)"
    )
    met = within == first_try == len(cuts)
    title = f"cutover under {sum(tasks)} writers in {len(tasks)} processes, {len(cuts)} tenants"
    bar = Bar("P5", title, measured, f"≤ {BAR_MS:.0f} ms over p99, first try, 20 of 20", met)
    return {
        "cutovers": each,
        "appends_answered": len(answered),
        "conflicts": len(refused) - len(errors),
        "appends_per_second": round(_rate(cuts, answered)),
        "histogram": _histogram(cuts, answered),
        "bars": [bar.as_dict()],
    }


def judge_one(cut: Cut, answered: Sequence[Attempt]) -> dict[str, Any]:
    """For each process the longest append during the cutover over the p99 of the time before.

    ``without_ms`` is what the machine does by itself: the same for a time just as long, right
    before the cutover was asked for.
    """
    worst = {"over_p99_ms": float("-inf")}
    without = float("-inf")
    length = cut.returned_at + AFTERWARDS - cut.asked_at
    for writer in {attempt.writer for attempt in answered}:
        own = [attempt for attempt in answered if attempt.writer == writer]
        before = sorted(milliseconds(a) for a in own if cut.asked_at - NORMAL < a.invoked_at
                        and _returned_at(a) < cut.asked_at)  # fmt: skip
        during = [a for a in own if _touches(a, cut)]
        right(len(before) > 50 and len(during) > 0, f"{writer} did not write around a cutover")
        p99 = before[int(len(before) * 0.99)]
        just_before = (
            milliseconds(a) for a in own if cut.asked_at - length < _returned_at(a) < cut.asked_at
        )
        without = max(without, *(ms - p99 for ms in just_before))
        longest = max(during, key=milliseconds)
        if milliseconds(longest) - p99 > worst["over_p99_ms"]:
            worst = {
                "over_p99_ms": milliseconds(longest) - p99,
                "longest_ms": milliseconds(longest),
                "p99_ms": p99,
                "longest_began_ms": (longest.invoked_at - cut.asked_at) * 1000,
            }
    rounded = {name: round(ms, 2) for name, ms in {**worst, "without_ms": without}.items()}
    details = asdict(cut) | {"tenant": str(cut.tenant), "migration": str(cut.migration)}
    return details | rounded


def _touches(attempt: Attempt, cut: Cut) -> bool:
    """Whether the append was under way between asking for the cutover and a moment after it."""
    return (
        _returned_at(attempt) > cut.asked_at and attempt.invoked_at < cut.returned_at + AFTERWARDS
    )


def _returned_at(attempt: Attempt) -> float:
    """Of an append that was answered."""
    assert attempt.returned_at is not None
    return attempt.returned_at


def milliseconds(attempt: Attempt) -> float:
    """How long it took."""
    return (attempt.latency or 0.0) * 1000


def _rate(cuts: Sequence[Cut], answered: Sequence[Attempt]) -> float:
    """Appends answered per second in the writers' normal time before the cutovers."""
    normal = sum(
        cut.asked_at - NORMAL < _returned_at(attempt) < cut.asked_at
        for cut in cuts
        for attempt in answered
    )
    return normal / (NORMAL * len(cuts))


def _histogram(cuts: Sequence[Cut], answered: Sequence[Attempt]) -> dict[str, Any]:
    """How many appends took at most so many milliseconds (and longer than the bin before)."""
    counts = {"before": [0] * (len(BINS) + 1), "during": [0] * (len(BINS) + 1)}
    for attempt in answered:
        at = next((n for n, end in enumerate(BINS) if milliseconds(attempt) <= end), len(BINS))
        if any(_touches(attempt, cut) for cut in cuts):
            counts["during"][at] += 1
        elif any(cut.asked_at - NORMAL < attempt.invoked_at < cut.asked_at for cut in cuts):
            counts["before"][at] += 1
    return {"upper_ends_ms": BINS, **counts}
