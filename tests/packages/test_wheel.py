"""A wheel is all that an installation needs: no Rust, no compiler, no clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.packages

COMPILERS = ("cargo", "rustc", "rustup", "cc", "gcc", "clang", "maturin")


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The newest wheel in dist/; `make packages` builds it."""
    found = sorted((REPOSITORY / "dist").glob("*.whl"), key=lambda each: each.stat().st_mtime)
    assert found, "there is no wheel: `make wheel` builds it"
    return found[-1]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH has the usual tools, and nothing that compiles."""
    programs = tmp_path_factory.mktemp("programs")
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            link = programs / program.name
            if not program.name.startswith(COMPILERS) and not link.exists():
                link.symlink_to(program)
    home = tmp_path_factory.mktemp("home")
    return {"PATH": str(programs), "HOME": str(home), "LANG": "C.UTF-8", **_index()}


def _index() -> dict[str, str]:
    """Where packages come from here."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}


@pytest.fixture(scope="module")
def installed(wheel: Path, bare: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, in an environment of its own with the wheel and what it depends on."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, env=bare)
    program = str(environment / "bin" / "pip")
    pip = [program, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{wheel}[embedded,otel,prometheus]"], check=True, env=bare)
    return environment / "bin" / "eventsource-migrate"


def test_nothing_that_compiles_is_there(bare: dict[str, str]) -> None:
    for program in COMPILERS:
        found = subprocess.run(
            ["/bin/sh", "-c", f"command -v {program}"], env=bare, capture_output=True, check=False
        )
        assert found.returncode != 0, program


def test_the_wheel_has_its_licences_and_is_no_larger_than_it_needs_to_be(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/THIRD-PARTY-LICENSES.txt") for name in names)
    assert not any("tests/" in name or "benchmarks" in name for name in names)
    for line in ("Project-URL: Homepage", "Classifier: Typing :: Typed", "Provides-Extra: otel"):
        assert line in metadata
    assert "abi3" in wheel.name
    assert wheel.stat().st_size < 8_000_000


def test_the_wheel_moves_a_tenant(installed: Path, bare: dict[str, str], tmp_path: Path) -> None:
    shown = subprocess.run(
        [installed, "demo", "--events", "3000", "--seconds", "0.5", "--json"],
        cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    result = json.loads(shown.stdout)
    assert result["is_sound"]
    assert result["lost"] == 0


def test_the_wheel_answers_at_once(installed: Path, bare: dict[str, str], tmp_path: Path) -> None:
    for arguments, said in ((["--version"], "."), (["--help"], "Move a tenant")):
        done = subprocess.run(
            [installed, *arguments], cwd=tmp_path, env=bare, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert said in done.stdout
        assert done.stderr == ""
