"""What the audit says when nothing is known, when something is, and when nobody could be asked."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit"

#: What a pip-audit or a cargo-audit does that reaches nobody.
UNREACHED = "echo 'error: no route to host' >&2; exit 1"

CLEAN = '{"dependencies": [{"name": "rich", "version": "14.0", "vulns": []}]}'
FOUND = CLEAN.replace("[]", '[{"id": "PYSEC-2026-1", "fix_versions": ["14.1"]}]')
NO_CRATES = 'echo \'{"vulnerabilities": {"found": false}}\''


@dataclass(frozen=True)
class Tools:
    """Programs that answer as they are told to."""

    directory: Path

    def python(self, installed: str, known: str | None = None) -> None:
        """``installed`` for the packages of the environment, ``known`` for the release that has
        an advisory."""
        known = known or self.report(FOUND, 1)
        which = f'case "$*" in *--requirement*) {known};; *) {installed};; esac'
        self._write("python/bin/pip-audit", which)

    def rust(self, answer: str) -> None:
        self._write("rust/bin/cargo-audit", answer)

    def report(self, content: str, code: int) -> str:
        return f"echo '{content}' >'{self.directory}/report.json'; exit {code}"

    def _write(self, name: str, answer: str) -> None:
        program = self.directory / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)

    def audit(self) -> tuple[int, str]:
        words = ["/bin/sh", str(SCRIPT), str(Path(sys.prefix)), str(self.directory)]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
        return ran.returncode, ran.stdout


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """Those of a day on which nothing is known."""
    made = Tools(tmp_path)
    made.python(made.report(CLEAN, 0))
    made.rust(NO_CRATES)
    return made


def test_nothing_is_known(tools: Tools) -> None:
    code, said = tools.audit()
    assert code == 0
    assert said.count("no advisory is known") == 2


def test_a_package_with_an_advisory_is_named(tools: Tools) -> None:
    tools.python(tools.report(FOUND, 1))
    code, said = tools.audit()
    assert code == 1
    assert "rich 14.0: PYSEC-2026-1, fixed in 14.1" in said


def test_a_crate_with_an_advisory_is_shown(tools: Tools) -> None:
    found = "echo '{\"vulnerabilities\": {}}'"
    tools.rust(f'case "$*" in *--json*) {found};; *) echo RUSTSEC-2026-0001;; esac; exit 1')
    code, said = tools.audit()
    assert code == 1
    assert "RUSTSEC-2026-0001" in said


def test_an_audit_that_reached_nobody_does_not_call_that_clean(tools: Tools) -> None:
    tools.python(UNREACHED, known=UNREACHED)
    tools.rust(UNREACHED)
    code, said = tools.audit()
    assert code == 2
    assert said.count("NOT CHECKED") == 2
    assert "no advisory is known" not in said


def test_a_service_that_was_lost_on_the_way_is_not_called_clean(tools: Tools) -> None:
    tools.python(UNREACHED)
    code, said = tools.audit()
    assert code == 2
    assert "the advisory service was not reached" in said


def test_a_service_that_knows_of_no_advisory_at_all_is_not_believed(tools: Tools) -> None:
    """A mirror of the index answers as well, and leaves the advisories out."""
    tools.python(tools.report(CLEAN, 0), known=tools.report(CLEAN, 0))
    code, said = tools.audit()
    assert code == 2
    assert "knows no advisory for pyyaml==5.3" in said
