"""P7: ``append_events`` of one event beside a hand-written transaction; see ``append``."""

from __future__ import annotations

from typing import Any

from benchmarks import append
from benchmarks.bench import Bar, Bench

BAR = 0.9


async def run(bench: Bench) -> dict[str, Any]:
    events = max(1000, min(8000, bench.scale // 100))
    with bench.timed(f"{events:,} appends of each way"):
        seen = await append.run(events)
    times = seen["microseconds"]
    bars = [
        Bar("P7", "append_events of one event, beside a hand-written transaction",
            f"{seen['ratio']:.2f} x its speed ({times['append_events']:.0f} and"
            f" {times['by_hand']:.0f} µs)", f"≥ {BAR} x", seen["ratio"] >= BAR),
        Bar("", "the same beside one that does not check the version",
            f"{seen['ratio_unchecked']:.2f} x its speed ({times['by_hand_unchecked']:.0f} µs)",
            "", None),
    ]  # fmt: skip
    return {**seen, "bars": [bar.as_dict() for bar in bars]}
