"""The charts of a run: throughput over time, cutover latencies, cost against size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.svg import Axis, Series, axis_over, bars, lines

PEERS = {
    "product": "bulk pass with mapping and proof",
    "pipe": "psql pipe",
    "two_pipes": "two pipes",
    "insert_select": "INSERT … SELECT",
}


def draw(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """SVG text by file name, for those benchmarks that have run."""
    wanted: dict[str, tuple[str, str, Callable[[dict[str, Any]], str]]] = {
        "throughput.svg": ("P1", "rounds", throughput),
        "cutover.svg": ("P5", "histogram", cutover),
        "size.svg": ("P8", "sizes", size),
        "passes.svg": ("P9", "milliseconds", passes),
        "rehearsals.svg": ("P18", "foretold", rehearsals),
    }
    return {
        name: chart(results[bar])
        for name, (bar, key, chart) in wanted.items()
        if key in results.get(bar, {})
    }


def throughput(result: dict[str, Any]) -> str:
    """Events at the target over time; where a line is flat, indexes are built or rows proven."""
    series = []
    for name, title in PEERS.items():
        runs = sorted(result["rounds"][name], key=lambda run: run["seconds"])
        rate = result["events_per_second"][name]
        series.append(Series(f"{title} ({rate / 1000:,.0f} k/s)", runs[len(runs) // 2]["pace"]))
    ends = [one.points[-1] for one in series]
    x = axis_over("seconds", [at for at, _ in ends])
    y = axis_over("events at the target", [events for _, events in ends])
    return lines("Throughput over time", x, y, series)


def cutover(result: dict[str, Any]) -> str:
    """Latencies of appends before and around the cutovers, in per cent of each."""
    found = result["histogram"]
    ends = [*found["upper_ends_ms"], float("inf")]
    series = []
    for name, title in (
        ("before", "two seconds before each cutover"),
        ("during", "from asking for a cutover to half a second after it"),
    ):
        total = sum(found[name]) or 1
        shares = [(number, 100 * count / total) for number, count in enumerate(found[name])]
        series.append(Series(f"{title} ({total:,})", shares))
    labels = [f"{end:.0f}" if number % 7 == 6 else "" for number, end in enumerate(ends)]
    x_label = "append latency up to … ms (seven bins per factor of ten)"
    y = Axis("% of the appends", 0.001, 100, log=True)
    return bars("Append latency around 20 cutovers", x_label, labels, y, series)


def size(result: dict[str, Any]) -> str:
    """Microseconds per event against the size of the tenant."""
    points = result["sizes"]
    series = [
        Series(PEERS[name], [(p["events"], p["seconds"][name] / p["events"] * 1e6) for p in points])
        for name in ("product", "pipe")
        if name in points[0]["seconds"]
    ]
    x = axis_over("events of the tenant", [point["events"] for point in points], log=True)
    y = axis_over("microseconds per event", [value for one in series for _, value in one.points])
    return lines("Cost against size", x, y, series, dots=True)


def passes(result: dict[str, Any]) -> str:
    """Time of a catch-up pass against what is new, for two sizes of the tenant."""
    series = [
        Series(
            f"tenant of {int(events):,} events",
            [(int(delta), value) for delta, value in times.items()],
        )
        for events, times in result["milliseconds"].items()
    ]
    x = axis_over("new events", [at for one in series for at, _ in one.points])
    y = axis_over("milliseconds", [value for one in series for _, value in one.points])
    return lines("A catch-up pass costs what is new", x, y, series, dots=True)


def rehearsals(result: dict[str, Any]) -> str:
    """What the last rehearsal of each tenant foretold beside what its cutover took."""
    found = sorted(result["foretold"], key=lambda one: one["pause_ms"])
    foretold = [(number + 1, one["rehearsed_ms"][-1] or 0.0) for number, one in enumerate(found)]
    taken = [(number + 1, one["pause_ms"]) for number, one in enumerate(found)]
    series = [
        Series("foretold by the last rehearsal", foretold),
        Series("taken by the cutover", taken),
    ]
    x = axis_over("tenant, by what its cutover took", [at for at, _ in taken])
    y = axis_over("fence held, milliseconds", [ms for _, ms in foretold + taken])
    return lines("Foretold and taken", x, y, series, dots=True)
