"""A worker of a fleet in a process of its own, to be killed and frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.child_process import ChildProcess


class FleetWorker(ChildProcess):
    """`eventsource-migrate fleet work` with a configuration."""

    def __init__(self, config: Path, name: str, *words: str) -> None:
        super().__init__(
            [sys.executable, "-c", "from eventsource.cli import main; main()",
             "fleet", "work", *words],
            config.parent / f"{name}.log",
            env={**os.environ, "EVENTSOURCE_CONFIG": str(config)},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self, timeout: float = 30) -> int:
        """As a service manager does; its exit code."""
        self._process.terminate()
        return self._process.wait(timeout)

    def wait(self, timeout: float) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(timeout)
