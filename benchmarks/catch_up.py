"""P9: what a catch-up pass costs depends on what is new, not on how large the tenant is.

After a checkpoint the first change of a page puts all of it into the write-ahead log, 8 kB. Some
indexes take new events at random pages, so a pass that follows a checkpoint is measured too, and
the bytes of log for each event.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import Bar, Bench
from benchmarks.passes import Timed, catching_up
from benchmarks.workload import build, fingerprint, right

#: New events of one pass.
DELTAS = (0, 1000, 10_000)

#: The bar gives no number for "equal": half as much again is more than the noise.
EQUAL = 1.5


@dataclass(frozen=True, slots=True)
class _Seen:
    """Passes by the number of events in them, and those right after a checkpoint."""

    usual: dict[int, list[Timed]]
    after_checkpoint: dict[int, list[Timed]]

    def log(self) -> dict[str, dict[str, int]]:
        """Bytes of log for each event."""
        cases = {"usual": self.usual, "after_checkpoint": self.after_checkpoint}
        return {
            case: {
                str(delta): round(statistics.median(each.log_bytes for each in timed) / delta)
                for delta, timed in of.items()
                if delta
            }
            for case, of in cases.items()
        }


async def _measure(bench: Bench, source_dsn: str) -> _Seen:
    seen = _Seen({delta: [] for delta in DELTAS}, {delta: [] for delta in DELTAS if delta})
    before = await fingerprint(source_dsn)
    async with catching_up(bench, source_dsn) as passes:
        await passes.timed(DELTAS[1])
        for number in range(bench.rounds):
            with bench.timed(f"round {number + 1}: passes of {', '.join(map(str, DELTAS))} events"):
                for delta, timed in seen.usual.items():
                    timed.append(await passes.timed(delta))
                for delta, timed in seen.after_checkpoint.items():
                    await bench.settle()
                    timed.append(await passes.timed(delta))
    right(await fingerprint(source_dsn) == before, "the workload is not what it was")
    return seen


async def run(bench: Bench) -> dict[str, Any]:
    small = bench.scale // 10
    small_dsn = await bench.source.create_database()
    await build(small_dsn, small)
    seen = {small: await _measure(bench, small_dsn)}
    await bench.drop(small_dsn)
    seen[bench.scale] = await _measure(bench, bench.source_dsn)
    medians = {size: _milliseconds(found.usual) for size, found in seen.items()}
    return {
        "milliseconds": {str(size): _rounded(of) for size, of in medians.items()},
        "milliseconds_after_checkpoint": {
            str(size): _rounded(_milliseconds(found.after_checkpoint))
            for size, found in seen.items()
        },
        "log_bytes_per_event": {str(size): found.log() for size, found in seen.items()},
        "rounds": {
            str(size): {
                str(delta): [each.seconds for each in timed] for delta, timed in found.usual.items()
            }
            for size, found in seen.items()
        },
        "bars": [bar.as_dict() for bar in _bars(small, bench.scale, medians)],
    }


def _milliseconds(passes: dict[int, list[Timed]]) -> dict[int, float]:
    return {
        delta: statistics.median(each.seconds for each in timed) * 1000
        for delta, timed in passes.items()
    }


def _rounded(milliseconds: dict[int, float]) -> dict[str, float]:
    return {str(delta): round(value, 2) for delta, value in milliseconds.items()}


def _bars(small: int, large: int, medians: dict[int, dict[int, float]]) -> list[Bar]:
    ratio = max(medians[large][delta] / medians[small][delta] for delta in DELTAS)
    nothing, some, many = (medians[large][delta] for delta in DELTAS)
    times = DELTAS[2] / DELTAS[1]
    growth = (many - nothing) / max(some - nothing, 1e-9)
    return [
        Bar("P9", f"a pass of d new events, {large:,} beside {small:,} events",
            f"d = 0 {nothing:.0f} ms, {DELTAS[1]:,} {some:.0f} ms, {DELTAS[2]:,} {many:.0f} ms;"
            f" at most {ratio:.2f} x the time at the smaller size",
            f"equal (≤ {EQUAL} x)", ratio <= EQUAL),
        Bar("P9", f"a pass of {times:.0f} times the new events",
            f"{growth:.1f} x the time beyond an empty pass", f"≤ {times * EQUAL:.0f} x",
            growth <= times * EQUAL),
    ]  # fmt: skip
