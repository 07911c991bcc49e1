"""``python -m tests.sabotage``: every variant, a table, and a record in ``runs``."""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.sabotage.suite import VARIANTS
from tests.sabotage.tree import BrokenRun, Tree
from tests.sabotage.variant import PatchError, Variant
from tests.support import REPOSITORY

RUNS = Path(__file__).parent / "runs"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one variant."""

    name: str
    breaks: str
    caught_by: list[str]
    seconds: float
    problem: str | None = None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sabotage", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants alone")
    parser.add_argument("--no-record", action="store_true", help="write nothing into runs/")
    options = parser.parse_args()
    chosen = [v for v in VARIANTS if not options.only or v.name in options.only]
    if not chosen or (options.only and len(chosen) != len(set(options.only))):
        parser.error(f"the variants are: {', '.join(v.name for v in VARIANTS)}")
    began = time.monotonic()
    work = REPOSITORY / "target" / "sabotage"
    work.mkdir(parents=True, exist_ok=True)
    alone = (work / "lock").open("w")
    fcntl.flock(alone, fcntl.LOCK_EX)
    tree = Tree.copied(work / "tree", work / "cargo")
    prepare(tree, chosen)
    outcomes = []
    for variant in sorted(chosen, key=lambda variant: variant.is_rust):
        outcomes.append(try_out(tree, variant))
        show(outcomes[-1])
    survivors = [outcome.name for outcome in outcomes if not outcome.caught_by]
    seconds = round(time.monotonic() - began)
    print(f"\n{len(outcomes) - len(survivors)} of {len(outcomes)} caught, {seconds} s")
    if survivors:
        print(f"not caught: {', '.join(survivors)}")
    if not options.only and not options.no_record:
        record(outcomes, seconds)
    return 1 if survivors else 0


def prepare(tree: Tree, chosen: list[Variant]) -> None:
    """Build the copy; the tests have to pass there while nothing is broken."""
    if any(variant.is_rust for variant in chosen):
        tree.build()
    else:
        tree.use_installed_core()
    tests = list(dict.fromkeys(test for variant in chosen for test in variant.tests))
    failed = tree.failing(tests)
    if failed:
        sys.exit(f"these fail although nothing is broken: {', '.join(failed)}")
    print(f"{len(chosen)} variants; unbroken, all {len(tests)} tests pass\n", flush=True)


def try_out(tree: Tree, variant: Variant) -> Outcome:
    """Break the copy, run the tests that ought to notice."""
    began = time.monotonic()
    caught_by: list[str] = []
    problem = None
    try:
        with tree.broken(variant):
            if any(e.path.startswith("rust/") for e in variant.edits) and needs_module(variant):
                tree.build()
            caught_by = tree.failing(variant.tests)
    except (PatchError, BrokenRun) as error:
        problem = str(error)
    return Outcome(
        variant.name, variant.breaks, caught_by, round(time.monotonic() - began, 1), problem
    )


def needs_module(variant: Variant) -> bool:
    """Whether a test in Python is among those that ought to notice."""
    return any("::" in test and ".py" in test for test in variant.tests)


def show(outcome: Outcome) -> None:
    told = f"caught by {len(outcome.caught_by)}" if outcome.caught_by else "NOT CAUGHT"
    print(f"{outcome.name:<38} {outcome.seconds:6.1f} s  {told}", flush=True)
    for test in outcome.caught_by:
        print(f"    {test.removeprefix('tests/')}")
    if outcome.problem:
        print("    " + outcome.problem.replace("\n", "\n    "))


def record(outcomes: list[Outcome], seconds: int) -> None:
    now = datetime.now(UTC)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    report: dict[str, Any] = {
        "at": now.isoformat(timespec="seconds"),
        "commit": commit,
        "seconds": seconds,
        "variants": len(outcomes),
        "caught": sum(bool(outcome.caught_by) for outcome in outcomes),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    RUNS.mkdir(exist_ok=True)
    file = RUNS / f"{now:%Y-%m-%d}-{commit}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    file.with_suffix(".md").write_text(table_of(report))
    print(f"recorded in {file.relative_to(REPOSITORY)}")


def table_of(report: dict[str, Any]) -> str:
    """The report for reading."""
    lines = [
        f"# {report['caught']} of {report['variants']} variants caught",
        "",
        f"`make sabotage` at {report['commit']}, {report['at']}, {report['seconds']} s.",
        "",
        "| variant | what is wrong with it | caught by |",
        "|---|---|---|",
    ]
    for outcome in report["outcomes"]:
        tests = [f"`{test.rpartition('::')[2]}`" for test in outcome["caught_by"]]
        caught = "<br>".join(tests) or "**nobody**"
        lines.append(f"| {outcome['name']} | {outcome['breaks']} | {caught} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
