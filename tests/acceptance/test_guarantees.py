"""The page of guarantees names code and tests that exist, and all sixteen invariants."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "explanation" / "guarantees.md"

_SECTION = re.compile(r"^## (I\d+)\. .*?\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
_NAMES = re.compile(r"`([^`]+)`")


def sections() -> dict[str, str]:
    return dict(_SECTION.findall(PAGE.read_text()))


def names(section: str, kind: str) -> list[str]:
    """The names behind ``**kind**:`` in a section."""
    text = re.search(rf"^- \*\*{kind}\*\*: (.*?)(?=^- \*\*|\Z)", section, re.MULTILINE | re.DOTALL)
    return _NAMES.findall(text[1]) if text else []


@cache
def known_tests() -> frozenset[str]:
    """Names of tests in Python, and of functions marked as tests in Rust."""
    found = []
    for file in (REPOSITORY / "tests").rglob("*.py"):
        found += re.findall(r"def (test_\w+)\(", file.read_text())
    for file in (REPOSITORY / "rust").rglob("*.rs"):
        found += re.findall(r"#\[test\]\s+fn (\w+)\(", file.read_text())
    return frozenset(found)


def exists(code: str) -> bool:
    """Whether ``file:name`` is defined; exactly one file has such an end of its path."""
    path, _, name = code.partition(":")
    places = [REPOSITORY / "python" / "eventsource", REPOSITORY / "rust" / "core" / "src"]
    files = [file for place in places for file in place.rglob(Path(path).name)]
    files = [file for file in files if file.as_posix().endswith("/" + path)]
    found = [file for file in files if defines(file, name)]
    return len(found) == 1


def defines(file: Path, name: str) -> bool:
    text = file.read_text()
    if file.suffix == ".sql":
        return re.search(rf"function \{{schema\}}\.{name}\(", text) is not None
    if file.suffix == ".rs":
        return re.search(rf"fn {name}\b", text) is not None
    return name in definitions(ast.parse(text).body)


def definitions(body: list[ast.stmt], within: str = "") -> list[str]:
    found = []
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            found.append(within + statement.name)
            found += definitions(statement.body, f"{within}{statement.name}.")
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(within + statement.name)
        elif isinstance(statement, ast.Assign):
            found += [within + each.id for each in statement.targets if isinstance(each, ast.Name)]
    return found


def test_every_invariant_has_its_section() -> None:
    assert list(sections()) == [f"I{number}" for number in range(1, 17)]


@pytest.mark.parametrize("invariant", [f"I{number}" for number in range(1, 17)])
def test_the_code_and_the_tests_of_an_invariant_exist(invariant: str) -> None:
    section = sections()[invariant]
    assert names(section, "Rule") or re.search(r"^- \*\*Rule\*\*: \w", section, re.MULTILINE)
    code, tests = names(section, "Code"), names(section, "Tests")
    assert code
    assert len(tests) >= 2
    assert [name for name in code if not exists(name)] == []
    assert [name for name in tests if name not in known_tests()] == []


def test_every_other_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert named - known_tests() == set()


@pytest.mark.parametrize(
    "name", ["decision.py:no_such_name", "no_such.py:decide", "digest.rs:absent"]
)
def test_a_name_that_is_nowhere_is_noticed(name: str) -> None:
    assert not exists(name)
