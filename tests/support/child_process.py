"""A program in a process of its own, to be killed and frozen."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.support import REPOSITORY


class ChildProcess:
    """Runs ``command`` in the repository, with its output in ``log``; leaving kills it."""

    def __init__(self, command: list[str], log: Path, **options: Any) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=file, stderr=file, **options
            )

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

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            # Also one that is frozen.
            self._process.kill()
            self._process.wait()
