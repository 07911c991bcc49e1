"""A command at a pseudo-terminal, and somebody who types."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

from tests.support.command_line import CommandLine


class Terminal:
    """A command that believes to be at a terminal."""

    def __init__(
        self,
        cli: CommandLine,
        *args: object,
        size: tuple[int, int] = (24, 80),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.output = ""
        # A character may be in two pieces.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        ours, theirs = pty.openpty()
        # pytest loads readline, which writes the size of another terminal there.
        inherited = {name: os.environ[name] for name in os.environ.keys() - {"COLUMNS", "LINES"}}
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self._ours = ours
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from eventsource.cli import main; main()", *map(str, args)],
            env={
                **inherited,
                "EVENTSOURCE_CONFIG": str(cli.config),
                "TERM": "xterm",
                **(environment or {}),
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    @property
    def said(self) -> str:
        """The words, wherever a line ends."""
        return " ".join(self.output.split())

    def read_until(self, text: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output and text not in self.said:
            assert time.monotonic() < deadline, self.output
            self._read_some(0.1)

    def settle(self) -> None:
        """Read until nothing more is written for the moment: a screen is drawn in pieces."""
        deadline = time.monotonic() + 5
        before = -1
        while len(self.output) != before and time.monotonic() < deadline:
            before = len(self.output)
            self._read_some(0.05)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + 30
        while self._read_some(0.1):
            assert time.monotonic() < deadline, self.output
        os.close(self._ours)
        return self.process.wait(10)

    def _read_some(self, seconds: float) -> bool:
        if select.select([self._ours], [], [], seconds)[0]:
            try:
                self.output += self._decoder.decode(os.read(self._ours, 65536))
            except OSError:
                return False
        return True
