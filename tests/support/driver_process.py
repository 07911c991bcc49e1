"""A process that drives one migration, to be killed.

``python -m tests.support.driver_process JOB.json`` starts the migration of the job's tenant, or
carries on the one there is, and cuts over if asked to. What a job may hold is in `driver_job`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.support.child_process import ChildProcess
from tests.support.driver_job import drive
from tests.support.worlds.two_servers import World


class DriverProcess(ChildProcess):
    """Starts this file as a process of its own."""

    def __init__(self, world: World, name: str, **job: Any) -> None:
        self._file = world.directory / f"{name}.json"
        self._file.touch(mode=0o600)
        self._file.write_text(
            json.dumps(
                {
                    "dsns": [world.source.dsn, world.target.dsn, world.control_dsn],
                    "directory": world.directory,
                    "steps": _steps(**job),
                    **job,
                },
                default=str,
            )
        )
        super().__init__(
            [sys.executable, "-m", "tests.support.driver_process", str(self._file)],
            world.directory / f"{name}.log",
        )

    def wait(self, timeout: float) -> None:
        """Wait for its end, which must be a good one."""
        assert self._process.wait(timeout) == 0, self.output()

    def peak_memory_mb(self) -> float:
        """The most memory that it has had so far, in MB of 1024 x 1024 bytes; of /proc."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(part for part in status.splitlines() if part.startswith("VmHWM"))
        return int(line.split()[1]) / 1024


def _steps(*, cutover: bool = False, migration: object = None, **_: object) -> list[str]:
    begin = [] if migration else ["start", "follow"]
    return [*begin, "cutover" if cutover else "stay"]


if __name__ == "__main__":
    asyncio.run(drive(json.loads(Path(sys.argv[1]).read_text())))
