"""A worker of a fleet in a process of its own, to be killed and frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import REPOSITORY


class FleetWorker:
    """`eventsource-migrate fleet work` with a configuration; leaving the context kills it."""

    def __init__(self, config: Path, name: str, *words: str) -> None:
        self._log = config.parent / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from eventsource.cli import main; main()",
                 "fleet", "work", *words],
                cwd=REPOSITORY,
                env={**os.environ, "EVENTSOURCE_CONFIG": str(config)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        assert self.is_running, self.output()
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop it where it is; its sessions stay."""
        self._process.send_signal(signal.SIGSTOP)

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

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def __enter__(self) -> FleetWorker:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.is_running:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
