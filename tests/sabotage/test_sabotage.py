"""The suite itself: its patches still fit, its tests exist, a run tells caught from not caught."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.sabotage.suite import VARIANTS
from tests.sabotage.tree import BrokenRun, Tree
from tests.sabotage.variant import CARGO, Edit, PatchError, Variant
from tests.support import REPOSITORY

#: A quick one; `make sabotage` runs all of them.
SOME = ("flip-before-the-decision",)

named = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


def lay_out(variant: Variant, root: Path) -> None:
    """The files that a variant changes, below ``root``."""
    for edit in variant.edits:
        file = root / edit.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((REPOSITORY / edit.path).read_bytes())


@named
def test_a_patch_fits_the_code(variant: Variant, tmp_path: Path) -> None:
    lay_out(variant, tmp_path)
    for edit in variant.edits:
        edit.apply(tmp_path)
    for path in {edit.path for edit in variant.edits}:
        changed = (tmp_path / path).read_text()
        assert changed != (REPOSITORY / path).read_text()
        if path.endswith(".py"):
            ast.parse(changed)


@named
def test_the_tests_of_a_variant_exist(variant: Variant) -> None:
    assert variant.tests
    for test in variant.tests:
        assert exists(test), test


def exists(test: str) -> bool:
    if test.startswith(CARGO):
        module, _, name = test.removeprefix(CARGO).rpartition("::tests::")
        module = module.replace("::", "/")
        folder = REPOSITORY / "rust/core/src"
        files = [folder / f"{module}.rs", folder / f"{module}_tests.rs"]
        return any(f"fn {name}(" in file.read_text() for file in files if file.exists())
    # Without the parameters, if it names some.
    path, _, name = test.partition("[")[0].partition("::")
    file = REPOSITORY / path
    return file.exists() and (not name or re.search(rf"def {name}\(", file.read_text()) is not None)


def test_names_are_unique() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("old", ["not in there", "import"])
def test_a_patch_that_does_not_fit_is_an_error(tmp_path: Path, old: str) -> None:
    (tmp_path / "some.py").write_text("import ast\nimport re\n")
    with pytest.raises(PatchError, match=r"some\.py"):
        Edit("some.py", old, "").apply(tmp_path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = Tree.copied(tmp_path_factory.mktemp("sabotage"), Path("nothing is compiled"))
    made.use_installed_core()
    return made


def test_some_variants_are_caught_and_the_unbroken_copy_is_not(tree: Tree) -> None:
    some = [variant for variant in VARIANTS if variant.name in SOME]
    assert len(some) == len(SOME)
    assert tree.failing([test for variant in some for test in variant.tests]) == []
    for variant in some:
        with tree.broken(variant):
            assert set(tree.failing(variant.tests)) == set(variant.tests)


def test_a_variant_that_does_not_even_start_is_not_called_caught(tree: Tree) -> None:
    unreadable = Variant(
        "unreadable",
        "is no Python",
        (
            Edit(
                "python/eventsource/migration/steps/decision.py",
                "class Decision:",
                "class Decision",
            ),
        ),
        ("tests/integration/guard/test_guard.py",),
    )
    with tree.broken(unreadable), pytest.raises(BrokenRun):
        tree.failing(unreadable.tests)
