"""Reads the tables of a page, to compare them with the code."""

from __future__ import annotations

import re
from pathlib import Path

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def sections_of(page: Path) -> dict[str, str]:
    """The text under each heading, without that of the headings below it."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    parts = re.split(r"^#+ (.*)\n", text, flags=re.MULTILINE)
    headings, texts = parts[1::2], parts[2::2]
    assert len(set(headings)) == len(headings), f"{page.name}: a heading occurs twice"
    return dict(zip(headings, texts, strict=True))


def rows_of(text: str) -> list[list[str]]:
    """The rows of the first table, cell by cell, without its head."""
    table = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert table is not None, text
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def code_in(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]*)`", cell)
