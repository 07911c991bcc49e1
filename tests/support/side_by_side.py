"""How tests run beside each other, and how somebody who waits for them sees that they do.

With pytest-xdist each worker has servers of its own. A test that is marked ``alone`` runs while the
other workers wait, and all of those run at the end, where they keep nobody waiting but each other.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

#: After so many seconds without a test that ended, a line says which ones are running.
SILENCE = 8.0


class Lock:
    """A lock that the workers of one checkout share; it goes with its process."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def take(self, *, shared: bool = False) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def close(self) -> None:
        # Closing is not enough: a process that a test has forked has the descriptor too.
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        os.close(self.descriptor)


@contextmanager
def turn(
    *, alone: bool, room: Path = Path(__file__), door: Path = Path(__file__).parent
) -> Iterator[None]:
    """Run beside others that may, or beside nobody.

    Everybody comes in by one door, and one who waits to be alone stands in it. Without it those who
    share the room would hand it to each other until they have no tests left.
    """
    with closing(Lock(room)) as inside:
        with closing(Lock(door)) as entering:
            entering.take()
            inside.take(shared=not alone)
        yield


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=is_alone)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # Around everything else, so that waiting does not count as time of the test.
    if not is_worker(item.config):
        return (yield)
    with turn(alone=is_alone(item)):
        return (yield)


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


class Heartbeat:
    """Says which tests are running when none has ended for a while."""

    def __init__(self, terminal: pytest.TerminalReporter, silence: float) -> None:
        self.terminal = terminal
        self.silence = silence
        self.running: list[str] = []
        self.stirred = threading.Event()
        self.is_over = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        watching = threading.Thread(target=self.watch, daemon=True)
        watching.start()
        try:
            return (yield)
        finally:
            self.is_over = True
            self.stirred.set()
            watching.join()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running.append(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.remove(nodeid)
        self.stirred.set()

    def watch(self) -> None:
        while not self.is_over:
            if self.stirred.wait(self.silence):
                self.stirred.clear()
            else:
                # Before the first test there are workers and servers to start.
                names = ", ".join(self.running) or "nothing yet"
                self.terminal.write_line(f"\nrunning: {names}")


def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    terminal = plugins.get_plugin("terminalreporter")
    # In the process that runs the tests, what a thread writes is captured as theirs.
    if terminal is not None and plugins.has_plugin("dsession"):
        plugins.register(Heartbeat(terminal, SILENCE))
