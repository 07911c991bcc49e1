"""Where the figures were measured, and with what."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bench import MAJOR, ROOT, SETTINGS
from eventsource.testing.binaries import find_bin_dir


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and command, as they are kept beside the numbers."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "scale": options.scale,
        "rounds": options.rounds,
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "system": platform.platform(),
            "load_at_start": [round(value, 2) for value in os.getloadavg()],
        },
        "versions": {
            "python": platform.python_version(),
            "postgresql": postgresql(MAJOR),
            "asyncpg": importlib.metadata.version("asyncpg"),
            "pydantic": importlib.metadata.version("pydantic"),
        },
        "postgresql_settings": SETTINGS,
    }


def postgresql(major: int) -> str:
    """The version of the server that is started for a major one."""
    return _output([str(find_bin_dir(major) / "postgres"), "--version"])


def processor_seconds() -> tuple[float, float] | None:
    """(busy, all) seconds of all cores since the start of the machine; None where nobody tells."""
    about = Path("/proc/stat")
    if not about.exists():
        return None
    ticks = [int(value) for value in about.read_text().split("\n", 1)[0].split()[1:9]]
    tick = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / tick, sum(ticks) / tick


def pgcopydb() -> str:
    """Why pgcopydb is not among the peers, with the version that the system offers."""
    version = "not known to this system"
    if shutil.which("apt-cache"):
        policy = _output(["apt-cache", "policy", "pgcopydb"])
        version = next(
            (line.split(":", 1)[1].strip() for line in policy.splitlines() if "Candidate" in line),
            version,
        )
    return (
        f"not run (Debian: {version}): it copies whole tables; its filters name schemas, tables"
        " and indexes, no option takes some rows of a table"
    )


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    name = _output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    changed = _output(["git", "-C", str(ROOT), "status", "--porcelain", "--", "python", "rust"])
    return f"{name} with local changes" if changed else name


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
