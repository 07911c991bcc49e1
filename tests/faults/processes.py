"""Processes by the dozen: forked from one that has imported everything, so each costs little.

They die with this one: every child watches its end of a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from eventsource import failpoints
from eventsource.failpoints import ARMED_VARIABLE, DIRECTORY_VARIABLE
from eventsource.testing import WriterConfig, WriterProcess, writers
from tests.support.driver_job import drive
from tests.support.worlds.two_servers import World

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["asyncpg", "eventsource.migration", "eventsource.testing.writers"])


class Process:
    """A forked process with what the harness needs of ``subprocess.Popen``."""

    stdin = None

    def __init__(
        self, target: Callable[..., None], *arguments: object, log: Path, **variables: str
    ) -> None:
        self.log = log
        self._process = _forks.Process(
            target=_run, args=(target, arguments, str(log), variables), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self.log), timeout or 0, self.output().encode())
        return code

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            # It may be gone before its end was noticed.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.join(30)


def _run(
    target: Callable[..., None], arguments: tuple[Any, ...], log: str, variables: Mapping[str, str]
) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(3)

    threading.Thread(target=end_with_parent, daemon=True).start()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(variables)
    failpoints.arm()
    target(*arguments)


def start_driver(
    world: World, name: str, armed: str = "", directory: Path | None = None, **job: Any
) -> Process:
    """A driver process; ``armed`` failpoints announce themselves in ``directory``."""
    whole = {
        "dsns": [world.source.dsn, world.target.dsn, world.control_dsn],
        "directory": str(directory or world.directory),
        "target_table": world.target.table,
        "make": False,
        **job,
    }
    variables = {ARMED_VARIABLE: armed, DIRECTORY_VARIABLE: str(directory or world.directory)}
    log = (directory or world.directory) / f"{name}.log"
    return Process(_drive, whole, log=log, **variables)


def _drive(job: dict[str, Any]) -> None:
    asyncio.run(drive(job))


def start_writer(config: WriterConfig) -> WriterProcess:
    """A writer that is forked; as `WriterProcess.start`, without waiting for it."""
    log = config.directory / f"{config.name}.log"
    config.records_path.unlink(missing_ok=True)
    process = Process(_write, config, log=log)
    return WriterProcess(config, process, log)  # type: ignore[arg-type]


def _write(config: WriterConfig) -> None:
    asyncio.run(writers._main(config))
