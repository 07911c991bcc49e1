"""What continuous integration leaves to `make thorough`: instances of kinds whose others it runs.

They are in ``left_out.txt``. What it names takes long, and another test that is not named
here notices the same mistakes earlier or at less cost. Everything else runs every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest


def _patterns(text: str) -> Iterator[str]:
    """Of lines that name a file and, indented, patterns of its tests."""
    file = ""
    for line in text.splitlines():
        if line.startswith("  "):
            yield f"tests/{file}::{line.strip()}"
        elif not line.startswith("#"):
            file = line


PATTERNS = tuple(_patterns(Path(__file__).with_name("left_out.txt").read_text()))

#: Marks of tests that other targets run.
ELSEWHERE = ("infra", "strangers", "packages", "fleet", "drills")

#: Every test that was collected, and whether continuous integration would run it.
COLLECTED = pytest.StashKey[dict[str, bool]]()


def is_left_out(nodeid: str) -> bool:
    return any(fnmatchcase(nodeid, pattern) for pattern in PATTERNS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Before pytest chooses by marks.
    config.stash[COLLECTED] = {
        item.nodeid: not any(item.get_closest_marker(mark) for mark in ELSEWHERE) for item in items
    }
    for item in items:
        if is_left_out(item.nodeid):
            item.add_marker(pytest.mark.thorough)
