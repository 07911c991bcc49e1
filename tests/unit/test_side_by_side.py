"""Tests beside each other: those that measure run alone, and long ones are named meanwhile."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import side_by_side

TESTS = """
import time
from pathlib import Path
import pytest

SPANS = Path(__file__).with_name("spans")

def take(seconds, kind):
    began = time.monotonic()
    time.sleep(seconds)
    with SPANS.open("a") as file:
        file.write(f"{began} {time.monotonic()} {kind}\\n")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(2))
def test_measures(number):
    take(0.6, "alone")

@pytest.mark.parametrize("number", range(8))
def test_bears_company(number):
    take(0.2, "beside")
"""


def run(directory: Path, silence: float, *options: str) -> str:
    """Run the tests above in a project of their own; what pytest printed."""
    plugin = Path(side_by_side.__file__).read_text()
    plugin = re.sub("^SILENCE = .*$", f"SILENCE = {silence}", plugin, flags=re.MULTILINE)
    (directory / "side_by_side.py").write_text(plugin)
    (directory / "conftest.py").write_text("pytest_plugins = ['side_by_side']\n")
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (directory / "test_them.py").write_text(TESTS)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=directory, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "10 passed" in ran.stdout
    return ran.stdout


def spans(directory: Path) -> list[tuple[float, float, str]]:
    found = []
    for line in (directory / "spans").read_text().splitlines():
        began, ended, kind = line.split()
        found.append((float(began), float(ended), kind))
    return sorted(found)


def overlap(one: tuple[float, float, str], other: tuple[float, float, str]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_a_test_that_measures_runs_beside_no_other(tmp_path: Path) -> None:
    run(tmp_path, 60, "-n", "2")
    found = spans(tmp_path)
    alone = [span for span in found if span[2] == "alone"]
    for one in alone:
        assert [span for span in found if overlap(one, span)] == [one]
    beside = [span for span in found if span[2] == "beside"]
    assert any(overlap(one, other) for one in beside for other in beside if one is not other)
    assert [kind for *_, kind in found] == ["beside"] * 8 + ["alone"] * 2


def test_a_test_that_takes_long_is_named_meanwhile(tmp_path: Path) -> None:
    printed = run(tmp_path, 0.3, "-n", "2")
    assert re.search(r"^running: test_them\.py::test_measures\[\d\]$", printed, re.MULTILINE)


@pytest.mark.parametrize("options", [(), ("-n", "1")])
def test_one_at_a_time_they_run_as_well(tmp_path: Path, options: tuple[str, ...]) -> None:
    run(tmp_path, 60, *options)
