"""The package as it was at an earlier commit, for processes that live beside those of today.

It is taken out of the repository's history, with the extension module of today. Where there is no
history, as in an archive or a shallow clone, there is no earlier version either.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PACKAGE = Path("python", "eventsource")


def environment_before(file: str, directory: Path) -> dict[str, str]:
    """Of a process of the version that did not have this file of the package yet, laid out here.

    Skips the test where there is no history.
    """
    commit = _before(file)
    if commit is None:
        pytest.skip("there is no history to take an earlier version from")
    return _unpacked(commit, directory)


def _before(file: str) -> str | None:
    """The commit before the one that has brought this file of the package, or None."""
    added = _git("log", "--diff-filter=A", "--format=%H", "--", str(PACKAGE / file))
    if not added:
        return None
    found = _git("rev-parse", "--verify", "--quiet", f"{added.decode().split()[-1]}^")
    return found.decode().strip() if found else None


def _unpacked(commit: str, directory: Path) -> dict[str, str]:
    """Lay that commit's package out; the environment of a process that imports it."""
    archive = _git("archive", "--format=tar", commit, str(PACKAGE))
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(directory, filter="data")
    for extension in (REPOSITORY / PACKAGE).glob("_core*.so"):
        shutil.copy(extension, directory / PACKAGE)
    return {**os.environ, "PYTHONPATH": str(directory / PACKAGE.parent)}


def _git(*arguments: str) -> bytes | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, check=False
    )
    return done.stdout if done.returncode == 0 else None
