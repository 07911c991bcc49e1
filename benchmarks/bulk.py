"""P1: the bulk pass beside what a user would do by hand, into an empty target on another server.

The bulk pass has everything in it that makes a move trustworthy: mapping rows, digests of both
sides, the proof, and building the indexes that the load did without.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from benchmarks import peers
from benchmarks.bench import Bar, Bench, forget
from benchmarks.pace import watching
from benchmarks.processors import charged
from benchmarks.workload import (
    fingerprint,
    make_plain_table,
    mapping_fingerprint,
    right,
    shuffled,
)

#: Beside which peers, and how many times as fast.
BARS = {"pipe": 2.0, "insert_select": 1.5}

#: Peers that no bar is about run in the first rounds only: that is a third of the suite's time.
COMPANION_ROUNDS = 2

TITLES = {
    "product": "bulk pass: copy, mapping, digests, index builds, proof",
    "pipe": "psql COPY | psql COPY, four indexes",
    "pipe_own": "the same into the product's own table (five indexes)",
    "two_pipes": "two such pipes, half of the events each, four indexes",
    "insert_select": "INSERT … SELECT inside one server, four indexes",
}

Seen = dict[str, Any]


async def product(
    bench: Bench,
    kind: str = "store",
    source_dsn: str = "",
    expected: tuple[int, int] | None = None,
    until: str = "dual_write",
    **config: object,
) -> Seen:
    """One move into a fresh target until the given state, checked down to every mapping row."""
    source_dsn = source_dsn or bench.source_dsn
    events, _ = expected = expected or bench.expected
    target_dsn, control_dsn = await bench.database(kind), await bench.database("control")
    try:
        await bench.settle()
        async with watching(target_dsn) as pace, bench.sampled():
            with charged(_servers(bench), _name(source_dsn)) as processors:
                seen = await bench.move(source_dsn, target_dsn, control_dsn, until, **config)
        await check(source_dsn, target_dsn, control_dsn, seen["offset"], expected)
        seconds = seen["bulk_seconds"]
        arrived = pace.as_events(events, seen["bulk_began"], seconds)
        return {**seen, "seconds": seconds, "processor_seconds": processors, "pace": arrived}
    finally:
        await forget(source_dsn)
        await bench.drop(target_dsn)
        await bench.drop(control_dsn)


async def check(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    offset: int,
    expected: tuple[int, int],
    *,
    mapped: bool = True,
) -> None:
    """Whether a move was right: rows, mapping (no row of it unless ``mapped``) and indexes."""
    right(await fingerprint(target_dsn, offset=offset) == expected, "the move copied wrongly")
    mapping = await mapping_fingerprint(control_dsn, mapped=True)
    wanted = (0, 0)
    if mapped:
        wanted = await mapping_fingerprint(source_dsn, mapped=False, offset=offset)
    right(mapping == wanted, "the move mapped wrongly")
    right(await _indexes(target_dsn) == 5, "an index is missing after the move")


async def by_hand(
    bench: Bench,
    kind: str,
    copy: Callable[[Bench, str, str], Awaitable[float]],
    source_dsn: str = "",
    expected: tuple[int, int] | None = None,
) -> Seen:
    """One run of a peer that copies into a fresh database of the target server."""
    source_dsn = source_dsn or bench.source_dsn
    expected = expected or bench.expected
    target_dsn = await bench.database(kind)
    try:
        await bench.settle()
        async with watching(target_dsn) as pace, bench.sampled():
            began = time.time()
            with charged(_servers(bench), _name(source_dsn)) as processors:
                seconds = await copy(bench, source_dsn, target_dsn)
        right(await fingerprint(target_dsn) == expected, f"{copy.__name__} copied wrongly")
        return {
            "seconds": seconds,
            "processor_seconds": processors,
            "pace": pace.as_events(expected[0], began, seconds),
        }
    finally:
        await bench.drop(target_dsn)


async def inside_one_server(bench: Bench) -> Seen:
    """``INSERT … SELECT`` into a second table of the source's database."""
    table = "events_copied"
    await make_plain_table(bench.source_dsn, table)
    try:
        await bench.settle()
        async with watching(bench.source_dsn, table) as pace:
            began = time.time()
            seconds = await peers.insert_select(bench.source_dsn, table)
        right(
            await fingerprint(bench.source_dsn, table) == bench.expected,
            "INSERT … SELECT copied wrongly",
        )
        return {"seconds": seconds, "pace": pace.as_events(bench.scale, began, seconds)}
    finally:
        connection = await asyncpg.connect(bench.source_dsn)
        await connection.execute(f"drop table {table}")
        await connection.close()


async def run(bench: Bench) -> dict[str, Any]:
    ways: dict[str, Callable[[], Awaitable[Seen]]] = {
        "product": lambda: product(bench),
        "pipe": lambda: by_hand(bench, "plain", peers.pipe),
        "pipe_own": lambda: by_hand(bench, "store", peers.pipe),
        "two_pipes": lambda: by_hand(bench, "plain", peers.two_pipes),
        "insert_select": lambda: inside_one_server(bench),
    }
    seen: dict[str, list[Seen]] = {name: [] for name in ways}
    for number in range(bench.rounds):
        names = list(ways) if number < COMPANION_ROUNDS else ["product", *BARS]
        for name in shuffled(names, number):
            with bench.timed(f"round {number + 1}: {name}"):
                seen[name].append(await ways[name]())
    seconds = {name: statistics.median(s["seconds"] for s in runs) for name, runs in seen.items()}
    return {
        "events": bench.scale,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "events_per_second": {name: round(bench.scale / s) for name, s in seconds.items()},
        "processor_seconds": {name: _profile(runs) for name, runs in seen.items()},
        "peak_rss_mb": round(max(run["peak_rss_mb"] for run in seen["product"]), 1),
        "rounds": seen,
        "bars": [bar.as_dict() for bar in _bars(bench.scale, seconds)],
    }


def _bars(events: int, seconds: dict[str, float]) -> list[Bar]:
    times = {name: value / seconds["product"] for name, value in seconds.items()}
    measured = f"{events / seconds['product']:,.0f} events/s, " + ", ".join(
        f"{times[name]:.2f} x {what}"
        for name, what in (("pipe", "the pipe"), ("insert_select", "INSERT … SELECT"))
    )
    asked = " and ".join(f"≥ {least} x" for least in BARS.values())
    met = all(times[name] >= least for name, least in BARS.items())
    lines = [Bar("P1", TITLES["product"], measured, asked, met)]
    for name in ("pipe", "pipe_own", "two_pipes", "insert_select"):
        measured = (
            f"{events / seconds[name]:,.0f} events/s; the bulk pass is {times[name]:.2f} x that"
        )
        lines.append(Bar("", TITLES[name], measured, "", None))
    return lines


def _profile(runs: list[Seen]) -> dict[str, float]:
    """Of the run in the middle."""
    middle: Seen = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
    return dict(middle.get("processor_seconds", {}))


def _servers(bench: Bench) -> list[int]:
    return [bench.source.postmaster_pid, bench.target.postmaster_pid]


def _name(dsn: str) -> str:
    return urlsplit(dsn).path.strip("/")


async def _indexes(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(
            await connection.fetchval(
                "select count(*) from pg_index where indrelid = 'events'::regclass and indisvalid"
            )
        )
    finally:
        await connection.close()
