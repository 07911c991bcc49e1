"""P4: HASH verification of both sides beside reading both sides and looking at nothing.

The verifier reads every row of both servers, digests it and compares. Two ``COPY TO STDOUT`` that
run at the same time and end in /dev/null read the same rows: nobody can be much faster than that.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import asyncpg

from benchmarks import peers
from benchmarks.bench import Bar, Bench
from benchmarks.workload import TENANT, right, shuffled
from eventsource.migration import ConsistencyVerifier
from eventsource.migration.consistency import VerificationLevel, VerificationReport
from eventsource.stores.postgresql import PostgreSQLEventStore

BAR = 0.85

_SPOIL = """
update events set payload = jsonb_set(payload, '{line}', '-1')
where event_id = (select event_id from events where tenant_id = $1
                  order by global_position limit 1 offset $2)
returning event_id, payload
"""


async def verify(
    source_dsn: str, target_dsn: str, level: VerificationLevel = VerificationLevel.HASH
) -> VerificationReport:
    """One verification on connections of its own."""
    async with (
        asyncpg.create_pool(source_dsn, min_size=1, max_size=2) as source,
        asyncpg.create_pool(target_dsn, min_size=1, max_size=2) as target,
    ):
        verifier = ConsistencyVerifier(PostgreSQLEventStore(source), PostgreSQLEventStore(target))
        return await verifier.verify_tenant_consistency(TENANT, level)


async def run(bench: Bench) -> dict[str, Any]:
    seen: dict[str, list[float]] = {"hash": [], "count": [], "reads": []}
    async with bench.moved() as target_dsn:
        connection = await asyncpg.connect(target_dsn)
        await connection.execute("vacuum analyze events")
        for number in range(bench.rounds):
            for name in shuffled(list(seen), number):
                await bench.settle()
                with bench.timed(f"round {number + 1}: {name}"):
                    seen[name].append(await _once(bench, name, target_dsn))
        changed = await connection.fetchval(_SPOIL, TENANT, bench.scale // 2)
        await connection.close()
        report = await verify(bench.source_dsn, target_dsn)
        named = [(violation.event_id, violation.field) for violation in report.violations]
        right(named == [(changed, "payload")], f"one changed payload was reported as {named}")
    seconds = {name: statistics.median(values) for name, values in seen.items()}
    return {
        "events": bench.scale,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "rounds": seen,
        "bars": _bars(bench.scale, seconds),
    }


async def _once(bench: Bench, name: str, target_dsn: str) -> float:
    if name == "reads":
        return await peers.two_bare_reads(bench, bench.source_dsn, target_dsn)
    began = time.monotonic()
    report = await verify(bench.source_dsn, target_dsn, VerificationLevel(name))
    seconds = time.monotonic() - began
    right(
        report.is_consistent
        and report.source_event_count == report.target_event_count == bench.scale
        and bench.workload is not None
        and report.streams_verified == bench.workload.streams,
        f"the verification of a right copy says {report}",
    )
    return seconds


def _bars(events: int, seconds: dict[str, float]) -> list[dict[str, Any]]:
    ratio = seconds["reads"] / seconds["hash"]
    rate = {name: f"{events / value:,.0f} events/s" for name, value in seconds.items()}
    return [
        bar.as_dict()
        for bar in (
            Bar("P4", "HASH verification of both sides",
                f"{rate['hash']}, {ratio:.2f} x two bare reads", f"≥ {BAR} x", ratio >= BAR),
            Bar("", "two concurrent COPY TO STDOUT > /dev/null", rate["reads"], "", None),
            Bar("", "COUNT verification of both sides", rate["count"], "", None),
        )
    ]  # fmt: skip
