"""The core's files stand in rooms whose imports all point down; no Rust files form a circle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

RUST = Path(__file__).parents[2] / "rust"
CORE = RUST / "core/src"
CRATES = [CORE, RUST / "model/src", RUST / "py/src"]

#: From the ground up. A file may import from its own room and from those before it.
ROOMS = (
    *("error", "snapshot", "throttle", "task"),
    *("row", "server", "config", "failpoints", "pass", "verify", "lib"),
)

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60

#: Text of each file by its path without the suffix.
Sources = Mapping[str, str]
#: What each file imports.
Imports = dict[str, set[str]]


def sources(crate: Path) -> Sources:
    files = sorted(crate.rglob("*.rs"))
    return {file.relative_to(crate).with_suffix("").as_posix(): file.read_text() for file in files}


def module_of(file: str) -> tuple[str, ...]:
    """A file's module in the crate. A file of tests belongs to the file that it tests."""
    parts = file.removesuffix("_tests").split("/")
    return tuple(parts[:-1] if parts[-1] in ("lib", "mod") else parts)


def imports(crate: Sources) -> Imports:
    files = {module_of(file): file for file in crate if not file.endswith("_tests")}
    found: Imports = {file: set() for file in files.values()}
    for file, text in crate.items():
        module = module_of(file)
        for path in paths(text, module, in_tests=file.endswith("_tests")):
            while path not in files:
                path = path[:-1]
            found[files[module]] |= {files[path]} - {files[module]}
    return found


def paths(text: str, module: tuple[str, ...], *, in_tests: bool) -> Iterator[tuple[str, ...]]:
    """Every path into the crate that the text names, from the root of the crate."""
    code = re.sub(r"//.*", "", text)
    body, _, tests = code.partition("#[cfg(test)]\nmod tests {")
    for part, above in ((body, module if in_tests else module[:-1]), (tests, module)):
        for start, rest in re.findall(
            r"\b(crate|super)::((?:\w+::)*(?:\w+|\*|\{[^;]*?\}(?=;)))", part
        ):
            for path in expanded(rest):
                yield (*above, *path) if start == "super" else path
        for rest in re.findall(r"^\s*(?:pub )?use (?!crate|super|std)(\w+::[^;]*);", part, re.M):
            for path in expanded(rest):
                yield (*module, *path)
        if re.search(r"\bfailpoint!\(", part):
            yield ("failpoints",)


def expanded(path: str) -> list[tuple[str, ...]]:
    """``a::{b, c::d}`` as its single paths."""
    head, brace, names = path.partition("{")
    front = tuple(name for name in head.split("::") if name)
    if not brace:
        return [front]
    singles = [name.split("::") for name in re.findall(r"[\w:*]+", names)]
    return [(*front, *single) if single != ["self"] else front for single in singles]


def arrows_up(found: Imports) -> list[str]:
    """Imports against the order of the rooms."""

    def floor(file: str) -> int:
        return ROOMS.index(file.partition("/")[0])

    return [
        f"{file} imports {other}"
        for file, others in found.items()
        for other in sorted(others)
        if floor(other) > floor(file)
    ]


def circle(found: Imports) -> list[str]:
    """The files of a circle, or none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def long_functions(text: str) -> list[str]:
    """Functions that are too long. The formatter's indents show where they end."""
    found = []
    lines = text.splitlines()
    for start, line in enumerate(lines):
        match = re.match(r"( *)(?:pub(?:\(\w+\))? )?(?:const |async |unsafe )*fn (\w+)", line)
        if match is None or line.endswith(("}", ";")):
            continue
        length = lines[start:].index(match[1] + "}") + 1
        if length > MOST_LINES_OF_A_FUNCTION:
            found.append(f"{match[2]}: {length} lines")
    return found


def test_every_import_of_the_core_points_down() -> None:
    assert arrows_up(imports(sources(CORE))) == []


@pytest.mark.parametrize("crate", CRATES, ids=lambda crate: crate.parent.name)
def test_no_files_import_each_other_in_a_circle(crate: Path) -> None:
    assert circle(imports(sources(crate))) == []


@pytest.mark.parametrize("crate", CRATES, ids=lambda crate: crate.parent.name)
def test_files_and_functions_are_short(crate: Path) -> None:
    found = sources(crate)
    assert [file for file, text in found.items() if text.count("\n") > MOST_LINES] == []
    assert {file: long for file, text in found.items() if (long := long_functions(text))} == {}


HOUSE = {
    "lib": "mod error;\npub mod row;\npub use error::Error;\n",
    "error": "pub struct Error;\n",
    "row/mod": "pub mod frame;\npub mod layout;\n",
    "row/frame": "use crate::error::Error;\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n",
    "row/frame_tests": "use super::*;\nuse crate::row::layout::Layout;\n",
    "row/layout": "use std::fmt;\n\nuse crate::error::{\n    Error,\n    Result,\n};\n",
}


def test_imports_are_read_from_every_place_that_may_hold_one() -> None:
    assert imports(HOUSE) == {
        "lib": {"error"},
        "error": set(),
        "row/mod": set(),
        "row/frame": {"error", "row/layout"},
        "row/layout": {"error"},
    }


@pytest.mark.parametrize(
    "line",
    [
        "use crate::row::frame::Tuple;",
        "use crate::{row::frame::Tuple};",
        "use crate::row::{self, frame};",
        "pub fn of(tuple: &crate::row::frame::Tuple) {}",
        "#[cfg(test)]\nmod tests {\n    use crate::row::layout;\n}",
        'async fn arrive() {\n    failpoint!("x");\n}',
        "use super::row;",
    ],
)
def test_an_import_that_points_up_is_noticed(line: str) -> None:
    house = {**HOUSE, "failpoints": "", "error": f"{HOUSE['error']}{line}\n"}
    assert arrows_up(imports(house)) != []


@pytest.mark.parametrize("line", ["use super::frame;", "use crate::row::frame::{self, Tuple};"])
def test_a_circle_within_a_room_is_noticed(line: str) -> None:
    house = {**HOUSE, "row/layout": line}
    assert arrows_up(imports(house)) == []
    assert set(circle(imports(house))) == {"row/frame", "row/layout"}


def test_a_long_function_is_noticed() -> None:
    body = "        step();\n" * (MOST_LINES_OF_A_FUNCTION - 2)
    fits = f"impl A {{\n    pub async fn run(\n        self,\n    ) {{\n{body[16:]}    }}\n}}\n"
    assert long_functions(f"    fn fits() {{\n{body}    }}\n") == []
    assert long_functions(f"    pub(crate) fn long() {{\n{body}        step();\n    }}\n")
    assert long_functions(fits) != []
