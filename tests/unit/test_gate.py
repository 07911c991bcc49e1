"""What continuous integration leaves out exists, and something of each file stays."""

from __future__ import annotations

import os
import subprocess
import sys
from fnmatch import fnmatchcase

from tests.support import REPOSITORY
from tests.support.gate import LEFT_OUT, PATTERNS


def test_every_pattern_names_a_test_and_leaves_another() -> None:
    files = [f"tests/{file}" for file in LEFT_OUT]
    left_out = _collected("-m", "thorough", *files)
    for pattern in PATTERNS:
        assert any(fnmatchcase(test, pattern) for test in left_out), pattern
    kept = _collected(*files)
    assert not kept & left_out
    assert {test.partition("::")[0] for test in kept} == set(files)


def _collected(*arguments: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return {line for line in done.stdout.splitlines() if "::" in line}
