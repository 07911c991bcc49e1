"""The private copy of the repository that is broken, built and tested."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.sabotage.variant import CARGO, Variant
from tests.support import REPOSITORY

PLUGIN = "tests.sabotage.imported"
CORE = Path("python/eventsource/_core.abi3.so")

#: Compiles quickly; nothing of this is measured.
_PROFILE = {"lto": "false", "opt-level": "1", "codegen-units": "16", "incremental": "true"}

#: A test that hangs for so long has noticed something (seconds).
TEST_TIMEOUT = 90


class BrokenRun(Exception):
    """Tests could not be run: nothing is known about the variant."""


@dataclass(slots=True)
class Tree:
    """A copy of what is built and tested, below ``root``."""

    root: Path
    cargo_target: Path

    @classmethod
    def copied(cls, root: Path, cargo_target: Path) -> Tree:
        """Make the copy, or make an older one equal; files that are equal keep their age."""
        names = {str(file.relative_to(REPOSITORY)) for file in files_to_test()}
        for name in names:
            content = (REPOSITORY / name).read_bytes()
            file = root / name
            if not file.exists() or file.read_bytes() != content:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        for file in root.rglob("*.py"):
            if str(file.relative_to(root)) not in names:
                file.unlink()
        return cls(root, cargo_target)

    def use_installed_core(self) -> None:
        """Take the extension module that the repository was built with."""
        shutil.copy(REPOSITORY / CORE, self.root / CORE)

    def build(self) -> None:
        """Compile the extension module from the copy.

        Raises:
            BrokenRun: it does not compile.
        """
        self._cargo(["build", "-p", "eventsource-py", "--features", "extension-module,failpoints"])
        suffix = "dylib" if sys.platform == "darwin" else "so"
        shutil.copy(self.cargo_target / "release" / f"lib_core.{suffix}", self.root / CORE)

    @contextmanager
    def broken(self, variant: Variant) -> Iterator[None]:
        """Apply a variant; undone at the end."""
        before = {edit.path: (self.root / edit.path).read_bytes() for edit in variant.edits}
        try:
            for edit in variant.edits:
                edit.apply(self.root)
            yield
        finally:
            for path, content in before.items():
                (self.root / path).write_bytes(content)

    def failing(self, tests: Sequence[str]) -> list[str]:
        """Run tests in the copy; those that failed.

        Raises:
            BrokenRun: tests could not be collected, or failed before they began.
        """
        cargo = [test.removeprefix(CARGO) for test in tests if test.startswith(CARGO)]
        others = [test for test in tests if not test.startswith(CARGO)]
        failed = self._failing_in_cargo(cargo) if cargo else []
        return failed + (self._failing_in_pytest(others) if others else [])

    def _failing_in_cargo(self, names: list[str]) -> list[str]:
        ran = self._cargo(
            ["test", "-p", "eventsource-core", "--lib", "--", "--exact", *names], check=False
        )
        lines = [line.split() for line in ran.stdout.splitlines()]
        outcomes = {line[1]: line[3] for line in lines if len(line) > 3 and line[0] == "test"}
        if set(names) - set(outcomes):
            raise BrokenRun(f"not run: {sorted(set(names) - set(outcomes))}\n{ran.stderr}")
        return [CARGO + name for name in names if outcomes[name] == "FAILED"]

    def _failing_in_pytest(self, tests: list[str]) -> list[str]:
        report = self.root / "sabotage-report.json"
        report.unlink(missing_ok=True)
        environment = {
            **os.environ,
            # Before everything that is installed, the package under test included.
            "PYTHONPATH": str(self.root / "python"),
            "SABOTAGED_TREE": str(self.root),
            "SABOTAGED_CORE": digest(self.root / CORE),
            "SABOTAGE_REPORT": str(report),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        words = [
            *(sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider"),
            # Python 3.11 may fail at parsing a file for a traceback that quotes the source, and
            # then a test that has failed counts as not run.
            *("-o", "addopts=", "--tb=native", f"--timeout={TEST_TIMEOUT}", *tests),
        ]
        code, told = _run(words, self.root, environment, TEST_TIMEOUT * (len(tests) + 1))
        if code not in (0, 1, None) or not report.exists():
            raise BrokenRun(told)
        outcome = json.loads(report.read_text())
        if outcome["errors"] or not outcome["ran"]:
            raise BrokenRun(told)
        # One name for all parameters of a test.
        return list(dict.fromkeys(test.partition("[")[0] for test in outcome["failed"]))

    def _cargo(self, words: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        verb, *rest = words
        config = [f"--config=profile.release.{name}={value}" for name, value in _PROFILE.items()]
        ran = subprocess.run(
            ["cargo", verb, "--release", *config, *rest],
            cwd=self.root, env={**os.environ, "CARGO_TARGET_DIR": str(self.cargo_target)},
            capture_output=True, text=True,
        )  # fmt: skip
        if check and ran.returncode != 0:
            raise BrokenRun(ran.stderr[-4000:])
        return ran


def _run(
    words: list[str], directory: Path, environment: dict[str, str], seconds: float
) -> tuple[int | None, str]:
    """Exit code and the end of the output; no code when it was ended for taking too long."""
    try:
        ran = subprocess.run(
            words, cwd=directory, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return None, f"ended after {seconds} s"
    return ran.returncode, f"{ran.stdout[-4000:]}\n{ran.stderr[-2000:]}"


def files_to_test() -> Iterator[Path]:
    """What it takes to build the package and to run its tests."""
    yield from (REPOSITORY / name for name in ("Cargo.toml", "Cargo.lock", "pyproject.toml"))
    for folder in ("python", "rust", "tests"):
        for file in (REPOSITORY / folder).rglob("*"):
            if file.is_file() and file.suffix not in (".so", ".pyc"):
                yield file


def digest(file: Path) -> str:
    """Identifies the content of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
