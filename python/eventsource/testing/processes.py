"""Starting writer processes from a test or a demonstration, and ending them in every way."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from eventsource.testing.records import Attempt, Outcome, RecordReader, load_attempts
from eventsource.testing.writer_config import WriterConfig


class WriterProcess:
    """One process of ``eventsource.testing.writers``; leaving the context stops it.

    The process ends with this one, whatever ends this one: it watches a pipe between them.
    """

    def __init__(self, config: WriterConfig, process: subprocess.Popen[bytes], log: Path) -> None:
        self.config = config
        self.pid = process.pid
        self._process = process
        self._log = log
        self._seen = _Seen(config.records_path)

    @classmethod
    def start(
        cls,
        config: WriterConfig,
        *,
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start it and wait until its stores are open. Files go into ``config.directory``.

        Args:
            environment: of the process; None is that of this one. Another ``PYTHONPATH`` in it
                gives it another version of the package.
        """
        config = replace(config, stop_with_stdin=True)
        config.directory.mkdir(parents=True, exist_ok=True)
        config.stop_path.unlink(missing_ok=True)
        config.records_path.unlink(missing_ok=True)
        file = config.directory / f"{config.name}.json"
        # The connection strings in it hold passwords.
        file.touch(mode=0o600)
        file.write_text(config.to_json())
        log = config.directory / f"{config.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "eventsource.testing.writers", str(file)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=environment,
            )
        writer = cls(config, process, log)
        try:
            writer._wait_until(lambda: writer._seen.read_on().ready, timeout)
        except BaseException:
            writer.kill()
            raise
        return writer

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def attempts(self) -> list[Attempt]:
        """Every attempt so far; those under way have the outcome UNKNOWN."""
        return load_attempts(self.config.records_path)

    def acknowledged(self, tenant_id: UUID | None = None) -> int:
        """How many appends were answered with OK so far, of one tenant or of all."""
        self._seen.read_on()
        counts = self._seen.acknowledged
        return counts.total() if tenant_id is None else counts[str(tenant_id)]

    def wait_for_acknowledged(
        self, more: int, tenant_id: UUID | None = None, *, timeout: float = 60.0
    ) -> None:
        """Block until so many more appends were answered with OK."""
        wanted = self.acknowledged(tenant_id) + more
        self._wait_until(lambda: self.acknowledged(tenant_id) >= wanted, timeout)

    def focus(self, tenant_id: UUID) -> None:
        """Send most appends of all writers of this directory to one tenant from now on."""
        fresh = self.config.focus_path.with_suffix(".new")
        fresh.write_text(str(tenant_id))
        fresh.replace(self.config.focus_path)

    def stop(self, *, timeout: float = 60.0) -> None:
        """Let calls under way finish and end the process; raises if it failed."""
        if self.is_running:
            self._process.terminate()
        code = self.wait(timeout)
        if code != 0:
            raise RuntimeError(f"writer {self.config.name} ended with {code}:\n{self._tail()}")

    def wait(self, timeout: float) -> int:
        """Wait for its end; returns the exit code."""
        code = self._process.wait(timeout)
        self.abandon()
        return code

    def abandon(self) -> None:
        """Let go of it, as if this process had ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.kill()
        elif self._process.returncode is None:
            self.stop()

    def _wait_until(self, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.is_running:
                raise RuntimeError(f"writer {self.config.name} ended:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"writer {self.config.name}:\n{self._tail()}")
            time.sleep(0.02)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])


class _Seen:
    """What the record file of a running writer said so far; each line is read once."""

    def __init__(self, path: Path) -> None:
        self.ready = False
        self.acknowledged: Counter[str] = Counter()
        self._reader = RecordReader(path)
        self._tenants: dict[int, str] = {}

    def read_on(self) -> Self:
        for line in self._reader.lines():
            if line["kind"] == "invoke":
                self._tenants[line["attempt"]] = line["tenant_id"]
            elif line["kind"] == "return":
                tenant = self._tenants.pop(line["attempt"])
                self.acknowledged[tenant] += line["outcome"] == Outcome.OK
            elif line["kind"] == "ready":
                self.ready = True
        return self
