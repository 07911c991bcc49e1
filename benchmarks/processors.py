"""Who used the processors while a copy ran: the profile that belongs to its figure.

The kernel charges each process with its own time. Servers, the program that copies and its helpers
are all processes of this machine, so their sum is all of the work, and on a busy machine the time
that a copy takes is that sum over the number of cores.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

INTERVAL_SECONDS = 0.1

#: One just begun shows the title of its parent; what shows nothing so often is none of ours.
_LOOKS = 5

_BUILDS, _OTHER = "target: builds indexes", "target: other sessions"

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")

# A server's process tells what it is: "postgres: user database host(port) COMMAND", or its duty.
_SESSION = re.compile(r"^postgres: \S+ (?P<database>\S+) \S*\(\d+\)(?P<command>.*)$")


@contextlib.contextmanager
def charged(servers: Collection[int], source_database: str) -> Iterator[dict[str, float]]:
    """Processor seconds by role while the body runs, filled in at its end; empty without /proc.

    Args:
        servers: process ids of the postmasters; other servers of this machine are not charged.
    """
    spent: dict[str, float] = {}
    if not _PROC.exists():
        yield spent
        return
    watch = _Watch(servers, source_database)
    try:
        yield spent
    finally:
        spent.update(watch.end())


class _Watch:
    """Looks at the processes that have a role, and at new ones once: looking costs time as well."""

    def __init__(self, servers: Collection[int], source_database: str) -> None:
        self._servers = {str(server) for server in servers}
        self._source = source_database
        self._roles: dict[str, str] = {}
        self._ticks: dict[str, tuple[int, int]] = {}
        self._strangers: Counter[str] = Counter()
        self._ending = threading.Event()
        self._begun = False
        self._look()
        self._begun = True
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, float]:
        self._ending.set()
        self._thread.join()
        spent: dict[str, float] = defaultdict(float)
        for process, role in self._roles.items():
            first, latest = self._ticks[process]
            spent[role] += (latest - first) / _TICKS
        return {role: round(seconds, 2) for role, seconds in sorted(spent.items()) if seconds}

    def _sample(self) -> None:
        while not self._ending.wait(INTERVAL_SECONDS):
            self._look()

    def _look(self) -> None:
        for process in filter(str.isdigit, os.listdir(_PROC)):
            if self._strangers[process] < _LOOKS:
                # One that ends while it is looked at has been seen a moment before.
                with contextlib.suppress(OSError, IndexError):
                    self._look_at(process)

    def _look_at(self, process: str) -> None:
        title = (_PROC / process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        fields = (_PROC / process / "stat").read_text().rpartition(")")[2].split()
        ours = fields[1] in self._servers or not title.startswith("postgres: ")
        role, known = self._role(title) if ours else None, self._roles.get(process)
        if role is None and known is None:
            self._strangers[process] += 1
            return
        # What a session does shows in its title only while it does it.
        if known is None or (known != _BUILDS and role not in (None, _OTHER)):
            self._roles[process] = role or _OTHER
        ticks = int(fields[11]) + int(fields[12])
        # A process that begins meanwhile is charged with all that it has used.
        new = known is None and self._begun
        self._ticks[process] = (self._ticks.get(process, (0 if new else ticks,))[0], ticks)

    def _role(self, title: str) -> str | None:
        if "benchmarks.move" in title:
            return None if title.startswith("/usr/bin/time") else "the migrating process"
        if " -Xq" in title and "psql" in title:
            return "psql"
        if not title.startswith("postgres: "):
            return None
        session = _SESSION.match(title)
        if session is None:
            return "servers: writing logs and pages, and other duties"
        if session["database"] == self._source:
            return "source: reads"
        if session["database"].startswith("control"):
            return "control: mapping and journal"
        if "CREATE INDEX" in session["command"]:
            return _BUILDS
        if "COPY" in session["command"]:
            return "target: writes and reads back"
        return _OTHER


def used_by(servers: Collection[int]) -> float:
    """Processor seconds of these servers until now, with all their sessions, ended ones included;
    0.0 without /proc.
    """
    ticks = 0
    for process in filter(str.isdigit, os.listdir(_PROC)) if _PROC.exists() else ():
        with contextlib.suppress(OSError):
            fields = (_PROC / process / "stat").read_text().rpartition(")")[2].split()
            if int(process) in servers:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) in servers:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS
