"""Other libraries in environments of their own: their packages have names that ours has too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from tests.support import REPOSITORY

#: Kept between runs, below the build directory.
WHERE = REPOSITORY / "target" / "libraries"


def environment(name: str, *packages: str) -> Path:
    """The Python of an environment with these packages; skips the test where they cannot be had."""
    where = WHERE / name
    python = where / "bin" / "python"
    if (where / "complete").exists():
        return python
    # By our own pip: to put one into each environment takes longer than many a test.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    install = [*pip, "--quiet", "--no-compile", *packages]
    make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(where)]
    for command in (make, install):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{', '.join(packages)}: no answer from the package index in two minutes")
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            pytest.skip(f"{', '.join(packages)} cannot be installed here: {' '.join(last)}")
    (where / "complete").touch()
    return python


class Program:
    """A program of tests that runs in such an environment and prints JSON lines.

    Into files: nobody reads before its end, and a pipe that is full stops a writer
    within its transaction.
    """

    def __init__(self, python: Path, program: str, *arguments: str) -> None:
        self.output = TemporaryFile("w+")  # noqa: SIM115 — closed by finish()
        self.errors = TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(python), "-I", str(Path(__file__).with_name(program)), *arguments],
            stdin=subprocess.PIPE, stdout=self.output, stderr=self.errors, text=True,
        )  # fmt: skip

    def finish(self, *, stop: bool = True) -> list[dict[str, Any]]:
        """All that it said; AssertionError when it failed."""
        self.process.communicate("stop\n" if stop else None, timeout=120)
        with self.output as output, self.errors as errors:
            output.seek(0)
            errors.seek(0)
            assert self.process.returncode == 0, errors.read()[-2000:]
            return [json.loads(line) for line in output]
