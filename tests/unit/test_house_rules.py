"""The rules of CONTRIBUTING that can be checked: lengths, and imports that all point one way."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import REPOSITORY

LONGEST_FILE, LONGEST_FUNCTION = 400, 60

FOLDERS = ("python", "tests", "benchmarks", "rust")

#: The rooms of the migration, folders and files, from the ground up: each may import those that
#: stand before it. A new room gets its place here.
ROOMS = (
    *(
        "protocol",
        "states",
        "configuration",
        "models",
        "errors",
        "failures",
        "rehearsals",
        "layouts",
        "event_table",
        "changes",
        "telemetry",
    ),
    "repositories",
    "subscriptions",
    "connections",
    "tables",
    "consistency",
    "preflight",
    "steps",
    "journaled",
    "driver",
    "routing",
    "background",
    "recovery",
    "moving",
    "operations",
    "coordinator",
    "__init__",
)


@dataclass(frozen=True, slots=True)
class Arrow:
    """One import; ``where`` is the file and the line that has it."""

    importer: str
    imported: str
    where: str


def files(root: Path, *suffixes: str) -> Iterator[Path]:
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in suffixes:
                yield file


def long_files(root: Path) -> list[str]:
    found = []
    for file in files(root, ".py", ".pyi", ".rs", ".sql"):
        length = len(file.read_text().splitlines())
        if length > LONGEST_FILE:
            found.append(f"{file.relative_to(root)}: {length} lines")
    return found


def long_functions(root: Path) -> list[str]:
    """Those of Python; decorators are not counted."""
    found = []
    for file in files(root, ".py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    found.append(f"{file.relative_to(root)}: {node.name} has {length} lines")
    return found


def arrows(place: Path) -> list[Arrow]:
    """Every import among the modules below ``place``.

    Those for the type checker alone and those within a function count like any other: they are the
    ones that hide a circle. A stub imports nothing: the module is in Rust, and does not either.
    """
    sources = [file for file in sorted(place.rglob("*")) if file.suffix in (".py", ".pyi")]
    modules = {module_name(file, place): file for file in sources}
    found = []
    for module, file in modules.items():
        if file.suffix == ".pyi":
            continue
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text())):
            for names in named_by(node, package):
                imported = next((name for name in names if name in modules), None)
                if imported not in (None, module):
                    line = getattr(node, "lineno", 0)
                    found.append(Arrow(module, imported, f"{file.relative_to(place)}:{line}"))
    return found


def module_name(file: Path, place: Path) -> str:
    parts = file.relative_to(place).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def named_by(node: ast.AST, package: str) -> Iterator[list[str]]:
    """For each name of an import the modules that it can mean, the likeliest first."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield [alias.name]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:
            yield [f"{base}.{alias.name}", base]


def circle(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """The names of one circle in their order, the first again at the end; empty without one."""
    graph: Mapping[str, set[str]] = defaultdict(set)
    for importer, imported in pairs:
        graph[importer].add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def room(module: str, package: str) -> str | None:
    """Which part of a package a module is in; None outside of it."""
    if module == package:
        return "__init__"
    inside = module.removeprefix(f"{package}.")
    return None if inside == module else inside.partition(".")[0]


def between_rooms(found: Iterable[Arrow], package: str) -> Iterator[tuple[str, str, Arrow]]:
    for arrow in found:
        importer, imported = room(arrow.importer, package), room(arrow.imported, package)
        if importer and imported and importer != imported:
            yield importer, imported, arrow


def arrows_back(found: Iterable[Arrow], package: str, rooms: tuple[str, ...]) -> list[str]:
    """Imports of a room that stands later, or of and by one that has no place."""
    wrong = []
    for importer, imported, arrow in between_rooms(found, package):
        unplaced = {importer, imported} - set(rooms)
        if unplaced:
            wrong.append(f"{arrow.where}: {', '.join(sorted(unplaced))} has no place in ROOMS")
        elif rooms.index(imported) > rooms.index(importer):
            wrong.append(f"{arrow.where}: {importer} imports {imported}, which stands above it")
    return wrong


@pytest.fixture(scope="module")
def ours() -> list[Arrow]:
    return arrows(REPOSITORY / "python")


def test_no_file_is_too_long() -> None:
    assert long_files(REPOSITORY) == []


def test_no_function_is_too_long() -> None:
    assert long_functions(REPOSITORY) == []


def test_no_imports_close_a_circle(ours: list[Arrow]) -> None:
    assert circle((arrow.importer, arrow.imported) for arrow in ours) == []


def test_no_two_parts_of_the_package_import_each_other(ours: list[Arrow]) -> None:
    pairs = between_rooms(ours, "eventsource")
    assert circle((importer, imported) for importer, imported, _ in pairs) == []


def test_imports_between_the_rooms_of_the_migration_point_one_way(ours: list[Arrow]) -> None:
    assert arrows_back(ours, "eventsource.migration", ROOMS) == []


def lay_out(root: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_long_files_and_functions_are_found(tmp_path: Path) -> None:
    body = "    pass\n" * LONGEST_FUNCTION
    lay_out(
        tmp_path,
        {
            "python/long.py": "\n" * (LONGEST_FILE + 1),
            "rust/core/src/long.rs": "//\n" * (LONGEST_FILE + 1),
            "tests/fits.py": "#\n" * LONGEST_FILE,
            "benchmarks/functions.py": f"@staticmethod\nasync def long():\n{body}",
            "benchmarks/fits.py": f"class Some:\n  def fits(self):\n{body[:-9]}",
        },
    )
    assert long_files(tmp_path) == [
        "python/long.py: 401 lines",
        "rust/core/src/long.rs: 401 lines",
    ]
    assert long_functions(tmp_path) == ["benchmarks/functions.py: long has 61 lines"]


@pytest.mark.parametrize(
    "back",
    [
        "from package.roof import tile\n",
        "from package import roof\n",
        "import package.roof\n",
        "from ..roof import tile\n",
        "from .. import roof\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package import roof\n",
        "def climb():\n    from package.roof import tile\n",
    ],
)
def test_an_arrow_back_and_the_circle_that_it_closes_are_found(tmp_path: Path, back: str) -> None:
    parts = {
        "package/__init__.py": "from package.roof import tile\n",
        "package/roof.py": "from package.ground import stone\ntile = 1\n",
        "package/ground/__init__.py": "",
        "package/ground/stone.py": "import ast\n",
        "package/sky.pyi": "from package.roof import tile\n",
    }
    straight = arrows(lay_out(tmp_path, parts))
    assert [(arrow.importer, arrow.imported) for arrow in straight] == [
        ("package", "package.roof"),
        ("package.roof", "package.ground.stone"),
    ]
    rooms = ("ground", "roof", "__init__")
    assert arrows_back(straight, "package", rooms) == []
    assert circle((arrow.importer, arrow.imported) for arrow in straight) == []

    crooked = arrows(lay_out(tmp_path, {"package/ground/stone.py": back}))
    line = back.count("\n")
    assert arrows_back(crooked, "package", rooms) == [
        f"package/ground/stone.py:{line}: ground imports roof, which stands above it"
    ]
    found = circle((arrow.importer, arrow.imported) for arrow in crooked)
    assert set(found) == {"package.roof", "package.ground.stone"}
    assert found[0] == found[-1]


def test_a_room_needs_a_place(tmp_path: Path) -> None:
    parts = {"package/__init__.py": "", "package/a.py": "from package import b\n"}
    found = arrows(lay_out(tmp_path, {**parts, "package/b.py": ""}))
    assert arrows_back(found, "package", ("a",)) == ["package/a.py:1: b has no place in ROOMS"]
