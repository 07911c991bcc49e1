"""What is said when something that the build needs is missing, or too old."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "prerequisites"

#: What the script itself calls.
TOOLS = ("sh", "dirname", "sed", "cut", "mktemp", "rm")

LEAST_RUST = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"][
    "rust-version"
]


@dataclass(frozen=True)
class Machine:
    """A machine whose programs are those of one directory."""

    programs: Path

    def has(self, name: str, answer: str = "exit 0") -> None:
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)

    def has_not(self, name: str) -> None:
        (self.programs / name).unlink()

    def has_python(self, version: str, implementation: str = "CPython", modules: str = "") -> None:
        """One that answers with this version; ``modules`` is what it does when asked for venv."""
        question = 'case "$2" in *venv*)'
        self.has(
            "python3", f"{question} {modules or 'exit 0'};; esac\necho {implementation} {version}"
        )

    def look(self, *arguments: str) -> tuple[int, str]:
        ran = subprocess.run(
            ["/bin/sh", str(SCRIPT), *arguments],
            env={"PATH": str(self.programs), "TMPDIR": str(self.programs)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.stdout == ""
        return ran.returncode, ran.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One where all is well, without Python, Rust and C of this one."""
    made = Machine(tmp_path)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    made.has_python("3.11.4")
    made.has("rustc", f"echo 'rustc {LEAST_RUST}.0 (29483883e 2025-08-04)'")
    made.has("cargo")
    made.has("cc")
    return made


def test_nothing_is_said_where_all_is_there(machine: Machine) -> None:
    assert machine.look() == (0, "")
    assert machine.look("--gate", "python3") == (0, "")


@pytest.mark.parametrize("version", ["3.9.18", "3.10.12", "2.7.18"])
def test_an_old_python_is_named_with_the_way_to_choose_another(
    machine: Machine, version: str
) -> None:
    machine.has_python(version)
    code, said = machine.look()
    assert code == 1
    assert f"CPython 3.11 or newer is needed; `python3` is CPython {version}" in said
    assert "make PYTHON=" in said


@pytest.mark.parametrize("version", ["3.11.0", "3.12.1", "3.14.0rc1", "4.0.0"])
def test_a_newer_python_will_do(machine: Machine, version: str) -> None:
    machine.has_python(version)
    assert machine.look() == (0, "")


def test_another_python_than_cpython_is_not_taken(machine: Machine) -> None:
    machine.has_python("3.11.13", "PyPy")
    code, said = machine.look()
    assert code == 1
    assert "`python3` is PyPy 3.11.13" in said


def test_no_python_at_all(machine: Machine) -> None:
    code, said = machine.look("python3.99")
    assert code == 1
    assert "no Python: `python3.99` is not found" in said


def test_a_python_without_venv(machine: Machine) -> None:
    machine.has_python("3.12.3", modules="exit 1")
    code, said = machine.look()
    assert code == 1
    assert "without its venv module" in said
    assert "apt-get install python3.12-venv" in said


@pytest.mark.parametrize("program", ["cargo", "rustc"])
def test_no_rust(machine: Machine, program: str) -> None:
    machine.has_not(program)
    code, said = machine.look()
    assert code == 1
    assert f"no Rust: `{program}` is not found" in said
    assert f"install Rust {LEAST_RUST} or newer from https://rustup.rs" in said


def test_an_old_rust(machine: Machine) -> None:
    machine.has("rustc", "echo 'rustc 1.63.0 (Debian)'")
    code, said = machine.look()
    assert code == 1
    assert f"Rust {LEAST_RUST} or newer is needed; this is rustc 1.63.0" in said
    assert "rustup update stable" in said


@pytest.mark.parametrize("version", ["1.100.0", "1.95.0-nightly", "2.0.0"])
def test_a_newer_rust_will_do(machine: Machine, version: str) -> None:
    machine.has("rustc", f"echo 'rustc {version} (0000000 2026-01-01)'")
    assert machine.look() == (0, "")


def test_a_rustup_without_a_toolchain(machine: Machine) -> None:
    machine.has("rustc", "echo 'error: rustup could not choose a version of rustc' >&2; exit 1")
    code, said = machine.look()
    assert code == 1
    assert "could not choose a version" in said
    assert "rustup default stable" in said


@pytest.mark.parametrize("component", ["fmt", "clippy"])
def test_the_gate_wants_rustfmt_and_clippy_and_a_build_does_not(
    machine: Machine, component: str
) -> None:
    machine.has("cargo", f'[ "$1" != {component} ]')
    assert machine.look() == (0, "")
    code, said = machine.look("--gate")
    assert code == 1
    assert f"rustup component add {component.replace('fmt', 'rustfmt')}" in said


def test_no_c_compiler(machine: Machine) -> None:
    machine.has_not("cc")
    code, said = machine.look()
    assert code == 1
    assert "no C compiler: `cc` is not found" in said
    assert "apt-get install gcc libc6-dev" in said


def test_a_c_compiler_that_cannot_link(machine: Machine) -> None:
    machine.has("cc", "echo 'ld: cannot find crt1.o' >&2; exit 1")
    code, said = machine.look()
    assert code == 1
    assert "`cc` cannot build a program" in said


def test_all_that_is_missing_is_named_at_once(machine: Machine) -> None:
    machine.has_python("3.8.10")
    machine.has_not("cargo")
    machine.has_not("cc")
    code, said = machine.look()
    assert code == 1
    problems = [line for line in said.splitlines() if line.startswith("- ")]
    assert len(problems) == 3, said


@pytest.mark.skipif(shutil.which("cargo") is None, reason="no cargo")
def test_the_rust_version_is_not_below_that_of_any_locked_crate() -> None:
    answer = output_of("rustc", "-vV").splitlines()
    [platform] = [line.removeprefix("host: ") for line in answer if line.startswith("host: ")]
    words = ["metadata", "--format-version", "1", "--locked", "--filter-platform", platform]
    wanted = {
        f"{package['name']} {package['version']}": package["rust_version"]
        for package in json.loads(output_of("cargo", *words))["packages"]
        if package["rust_version"] is not None
    }
    assert {name: rust for name, rust in wanted.items() if parts(rust) > parts(LEAST_RUST)} == {}


def output_of(*words: str) -> str:
    ran = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))
