"""Statements kept in ``.sql`` files beside the code that runs them, as named blocks."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_BLOCK = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def text(package: str, file: str) -> str:
    """The whole text of ``file`` in the directory of ``package``."""
    return resources.files(package).joinpath(file).read_text(encoding="utf-8")


@cache
def statements(package: str, file: str) -> dict[str, str]:
    """The blocks of ``file`` by name; a block begins with a line ``-- name: its_name``."""
    parts = _BLOCK.split(text(package, file))
    return dict(zip(parts[1::2], (body.strip() for body in parts[2::2]), strict=True))
