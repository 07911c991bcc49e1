"""What a run leaves behind: the table, the figures as JSON, and the charts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.bench import Bar, Bench
from benchmarks.machine import pgcopydb
from benchmarks.plots import draw
from benchmarks.workload import WrongAnswerError

HEAD = ("bar", "what", "measured", "asked for", "met")


def failure(name: str, error: BaseException) -> dict[str, Any]:
    """What stands in the place of figures: a wrong answer has none."""
    what = "wrong answer" if isinstance(error, WrongAnswerError) else "could not be measured"
    text = f"{what}: {type(error).__name__}: {error}".replace("\n", " ")[:300]
    return {"error": text, "bars": [Bar(name, text, "", "", False).as_dict()]}


def table(bench: Bench, began: dict[str, Any]) -> str:
    """The table of ratios with everything needed to repeat it, as Markdown."""
    lines = [line for result in bench.results.values() for line in result["bars"]]
    if "P1" in bench.results:
        lines.append(Bar("", "pgcopydb", pgcopydb(), "", None).as_dict())
    rows = [
        (line["id"], line["what"], line["measured"], line["bar"], _met(line["met"]))
        for line in lines
    ]
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    text = ["| " + " | ".join(row) + " |" for row in (HEAD, ("---",) * len(HEAD), *cells)]
    return "\n".join([*_heading(bench, began), "", *text]) + "\n"


def _profile(bench: Bench) -> str:
    """Where the processors' time went in P1, peer beside peer."""
    spent = bench.results.get("P1", {}).get("processor_seconds", {})
    spent = {name: roles for name, roles in spent.items() if roles}
    if not spent:
        return ""
    rows = [("processor seconds of P1", *spent), ("---",) * (len(spent) + 1)]
    for role in sorted({role for roles in spent.values() for role in roles}):
        rows.append((role, *(f"{roles.get(role, 0):.1f}" for roles in spent.values())))
    rows.append(("all", *(f"{sum(roles.values()):.1f}" for roles in spent.values())))
    told = "Of the run in the middle, by process, from start to end; the kernel's work is in it."
    return "\n".join(["", told, "", *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _met(met: bool | None) -> str:
    return {True: "yes", False: "**no**", None: ""}[met]


def _heading(bench: Bench, began: dict[str, Any]) -> list[str]:
    machine, versions = began["machine"], began["versions"]
    size = f", {bench.workload.bytes_per_event:.0f} bytes each in COPY" if bench.workload else ""
    settings = ", ".join(
        f"{name} = {value}" for name, value in began["postgresql_settings"].items()
    )
    load = machine["load_at_start"][0]
    as_run = {result["servers"] for result in bench.results.values() if "servers" in result}
    return [
        f"# {began['scale']:,} events, {began['date'][:10]}",
        "",
        f"`{began['command']}` at commit {began['commit']}; medians of {began['rounds']} rounds.",
        f"Workload A: {bench.scale:,} events of the tenant{size}, interleaved with as many of",
        "another; source and target are two servers on one machine.",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB,",
        f"{machine['system']}, load {load} at the start; Python {versions['python']},",
        f"{versions['postgresql']} on both sides ({settings}).",
        *(f"As run: {servers}." for servers in as_run),
    ]


def write(out: Path, bench: Bench, began: dict[str, Any]) -> None:
    """Write what is known so far; called after every benchmark, so that nothing is lost."""
    ended = {"load_at_end": [round(value, 2) for value in os.getloadavg()]}
    for name, result in bench.results.items():
        (out / f"{name}.json").write_text(_compact(result))
    figures = {
        name: {key: value for key, value in result.items() if key != "rounds"}
        for name, result in bench.results.items()
    }
    whole = {**began, "machine": began["machine"] | ended, "pgcopydb": pgcopydb()}
    (out / "results.json").write_text(json.dumps({**whole, "results": figures}, indent=2) + "\n")
    (out / "table.md").write_text(table(bench, began) + _profile(bench))
    for name, chart in draw(bench.results).items():
        (out / name).write_text(chart)


def _compact(result: dict[str, Any]) -> str:
    """One line for each key and each round: readable in a diff, without a line per sample."""
    parts = []
    for key, value in result.items():
        if key == "rounds" and isinstance(value, dict):
            inner = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            parts.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
