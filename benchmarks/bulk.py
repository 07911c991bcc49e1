"""The bulk pass beside ``psql COPY | psql COPY``, both into an indexed table on another server.

    python -m benchmarks.bulk --events 1000000 --rounds 5 --out benchmarks/runs/bulk.json

The ratio is events per second of the bulk pass (copy, mapping rows, digests, proof) over those of
the pipe, by medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import asyncpg

from benchmarks.workload import CARRIED, TENANT, build, fingerprint, shuffled
from eventsource.migration import create_schema
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing.clusters import Cluster


def pipe(source: Cluster, target: Cluster, source_dsn: str, target_dsn: str) -> dict[str, float]:
    """What a user would do by hand today."""
    out = f"copy (select {CARRIED} from events where tenant_id = '{TENANT}' order by 1) to stdout"
    into = f"copy events ({CARRIED}) from stdin"
    command = (
        f"{source.program('psql')} -XqAt -d {shlex.quote(source_dsn)} -c {shlex.quote(out)} | "
        f"{target.program('psql')} -Xq -d {shlex.quote(target_dsn)} -c {shlex.quote(into)}"
    )
    began = time.monotonic()
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True)
    return {"bulk_seconds": time.monotonic() - began}


def product(source_dsn: str, target_dsn: str, control_dsn: str) -> dict[str, float]:
    """The move in a fresh process, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.move", source_dsn, target_dsn, control_dsn]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


async def _prepare(dsn: str, *, control: bool = False) -> None:
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
    if control:
        await create_schema(pool)
    else:
        await PostgreSQLEventStore(pool, "events").create_schema()
    await pool.close()


async def run(events: int, rounds: int) -> dict[str, object]:
    """Build the workload once; every round moves it with each peer into a fresh database."""
    with Cluster.start(major=16) as source, Cluster.start(major=18) as target:
        source_dsn = await source.create_database("shared")
        workload = await build(source_dsn, events)
        expected = await fingerprint(source_dsn, "events")
        figures: dict[str, list[dict[str, float]]] = {"pipe": [], "product": []}
        for number in range(rounds):
            for peer in shuffled(list(figures), number):
                target_dsn = await target.create_database()
                await _prepare(target_dsn)
                if peer == "pipe":
                    seen = pipe(source, target, source_dsn, target_dsn)
                else:
                    control_dsn = await source.create_database()
                    await _prepare(control_dsn, control=True)
                    seen = product(source_dsn, target_dsn, control_dsn)
                assert await fingerprint(target_dsn, "events") == expected, f"{peer} moved it wrong"
                figures[peer].append(seen)
                await target.drop_database(target_dsn.rsplit("/", 1)[1].split("?")[0])
                if peer == "product":
                    await source.drop_database(control_dsn.rsplit("/", 1)[1].split("?")[0])
                    await _forget(source_dsn)
                print(f"round {number + 1} {peer}: {events / seen['bulk_seconds']:,.0f} events/s")
        seconds = {p: statistics.median(f["bulk_seconds"] for f in s) for p, s in figures.items()}
        return {
            "workload": {"events": events, "streams": workload.streams,
                         "bytes_per_event": round(workload.bytes_per_event)},
            "machine": {"cores": os.cpu_count(), "system": platform.platform(),
                        "python": platform.python_version(), "postgresql": "16 to 18"},
            "command": f"python -m benchmarks.bulk --events {events} --rounds {rounds}",
            "rounds": figures,
            "events_per_second": {p: round(events / s) for p, s in seconds.items()},
            "ratio_to_pipe": round(seconds["pipe"] / seconds["product"], 2),
            "peak_rss_mb": round(max(f["peak_rss_mb"] for f in figures["product"])),
        }  # fmt: skip


async def _forget(source_dsn: str) -> None:
    """Let the tenant move again in the next round: drop what the finished move left."""
    connection = await asyncpg.connect(source_dsn)
    triggers = await connection.fetch(
        "select tgname from pg_trigger where tgrelid = 'events'::regclass"
        " and tgname like 'zzz_eventsource_guard%'"
    )
    for trigger in triggers:
        await connection.execute(f'drop trigger "{trigger["tgname"]}" on events')
    await connection.execute("delete from eventsource_fences")
    await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = asyncio.run(run(options.events, options.rounds))
    print(json.dumps({k: v for k, v in result.items() if k != "rounds"}, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
