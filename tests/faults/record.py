"""Writes a run down: everything as JSON, and what a reader wants to know as a page."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.matrix import BEYOND, BUDGET, OTHERS, RECOVERY, Outcome
from tests.faults.torture import Played

RUNS = Path(__file__).parent / "runs"


def write_matrix(outcomes: Sequence[Outcome], seconds: float) -> Path:
    """The page of a whole run; the JSON lies beside it."""
    broken = [outcome for outcome in outcomes if outcome.violations]
    others = max((outcome.others for outcome in outcomes), default=0) * 1000
    stall = max((outcome.stall for outcome in outcomes), default=0) * 1000
    faults = sorted({outcome.cell.fault for outcome in outcomes})
    lines = [
        f"# Fault matrix, {_today()}",
        "",
        f"`make faults` at {_commit()} on {_machine()}: {len(outcomes)} cells of"
        f" {len({o.cell.failpoint for o in outcomes})} failpoints in {seconds / 60:.0f} minutes,"
        f" {sum(o.events for o in outcomes):,} events attempted,"
        f" **{len(broken)} cells with a broken promise**.",
        "",
        "| fault | cells | recovered after, median | 95 % | longest"
        " | longest append, median | 95 % | longest | ended |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fault in faults:
        of = [outcome for outcome in outcomes if outcome.cell.fault == fault]
        ends = Counter(outcome.end for outcome in of)
        lines.append(
            f"| {fault} | {len(of)} | {_spread([o.recovery for o in of], 's')}"
            f" | {_spread([o.longest for o in of], 'ms')}"
            f" | {', '.join(f'{n} {end}' for end, n in sorted(ends.items()))} |"
        )
    lines += [
        "",
        f"Limits: a move is on one side {RECOVERY:.0f} s after the accident; the budget of the"
        f" cutover is {BUDGET:g} s here, an append waits at most {BEYOND * 1000:.0f} ms longer,"
        f" one of another tenant at most {OTHERS * 1000:.0f} ms. The longest append of another"
        f" tenant was {others:.0f} ms; an idle process of this machine was kept waiting for up to"
        f" {stall:.0f} ms meanwhile.",
        "",
    ]
    for outcome in broken:
        lines.append(f"- `{outcome.cell}`: {'; '.join(outcome.violations)[:400]}")
    cells = [{**asdict(outcome), "cell": str(outcome.cell)} for outcome in outcomes]
    return write("matrix", lines, {"seconds": round(seconds, 1), "cells": cells})


def write_torture(results: Sequence[Played], seconds: float) -> Path:
    """The page of a run of the torture."""
    broken = [result for result in results if result.violations]
    acts = Counter(act.what for result in results for act in result.schedule.acts)
    acts += Counter(part.step for result in results for part in result.schedule.then)
    acts += Counter(r.schedule.strike.how for r in results if r.schedule.strike is not None)
    reached = Counter(name for result in results for name in result.accidents)
    ends = Counter(result.end for result in results)
    seeds = [result.schedule.seed for result in results]
    lines = [
        f"# Torture, {_today()}",
        "",
        f"`make torture SEED={min(seeds)} SEEDS={len(seeds)}` at {_commit()} on {_machine()}:"
        f" {len(seeds)} seeds"
        f" in {seconds / 60:.0f} minutes, {sum(r.attempted for r in results):,} events attempted,"
        f" {sum(r.acknowledged for r in results):,} acknowledged,"
        f" **{len(broken)} seeds with a broken promise**.",
        "",
        f"They ended {_counted(ends)}. Acts: {_counted(acts)}."
        f" {reached.total()} failpoints acted, {len(reached)} different ones.",
        "",
        "| | median | 95 % | longest |",
        "|---|---|---|---|",
        f"| the last process settled it in | {_spread([r.recovery for r in results], 's')} |",
        f"| a seed took | {_spread([r.seconds for r in results], 's')} |",
        "",
    ]
    for result in broken:
        lines.append(f"- {result.schedule.seed}: {'; '.join(result.violations)[:400]}")
    runs = [
        {**asdict(result), "schedule": str(result.schedule), "seed": result.schedule.seed}
        for result in results
    ]
    return write("torture", lines, {"seconds": round(seconds, 1), "seeds": runs})


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def write(kind: str, lines: Sequence[str], facts: dict[str, Any]) -> Path:
    """Write page and JSON of today."""
    RUNS.mkdir(exist_ok=True)
    page = RUNS / f"{kind}-{_today()}.md"
    page.write_text("\n".join(lines).rstrip() + "\n")
    where = {"date": _today(), "commit": _commit(), "machine": _machine()}
    whole = {"kind": kind, **where, **facts}
    page.with_suffix(".json").write_text(json.dumps(whole, indent=1, default=str) + "\n")
    return page


def _spread(values: Sequence[float], unit: str) -> str:
    """Median, 95th percentile and maximum, as three columns."""
    scale, digits = (1000, 0) if unit == "ms" else (1, 1)
    ordered = sorted(values)
    chosen = (statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1))], ordered[-1])
    return " | ".join(f"{value * scale:.{digits}f} {unit}" for value in chosen)


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    told = subprocess.run(command, cwd=RUNS.parent, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"
