"""The list of failpoints is the code's, and what a failpoint is told is understood or refused."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import eventsource
from eventsource import _core, failpoints
from eventsource.failpoints import ARMED_VARIABLE, DIRECTORY_VARIABLE, FAILPOINTS

PYTHON = Path(eventsource.__file__).parent
RUST = PYTHON.parents[1] / "rust" / "core" / "src"
NAME = r'"([a-z]+(?:\.[a-z]+)+)"'


def _names_in(directory: Path, pattern: str, call: str) -> list[str]:
    texts = (file.read_text() for file in directory.rglob(pattern))
    calls = (found for text in texts for found in re.findall(call, text, re.DOTALL))
    return [name for found in calls for name in re.findall(NAME, found)]


def test_every_failpoint_is_reached_by_the_code_once_and_no_other() -> None:
    call = r"failpoints\.(?:reach|in_flight)\(([^)]*)\)"
    of_layouts = _names_in(PYTHON / "migration" / "journaled", "*.py", call)
    # The same moments of a move, with tables of another library.
    again = [name for name in of_layouts if not name.startswith("layout.")]
    in_python = _names_in(PYTHON, "*.py", call)
    for name in again:
        in_python.remove(name)
    in_rust = _names_in(RUST, "*.rs", r"failpoint!\(([^)]*)\)")
    assert sorted(in_python + in_rust) == sorted(FAILPOINTS)
    assert len(in_python) > 40
    assert len(in_rust) > 10


def test_development_builds_have_the_failpoints_of_the_data_plane() -> None:
    assert _core.HAS_FAILPOINTS, "the extension module was built without; run `make build`"


@pytest.mark.parametrize(
    ("armed", "complaint"),
    [
        ("bulk.chunk.reed=kill", "'bulk.chunk.reed' is not a failpoint"),
        ("bulk.chunk.read", "bulk.chunk.read cannot ''"),
        ("bulk.chunk.read=explode", "cannot 'explode'"),
        ("bulk.chunk.read=kill@soon", "soon"),
    ],
)
def test_what_is_not_understood_is_refused(armed: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        failpoints.parse(armed)


async def test_a_name_that_is_not_listed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _arm(monkeypatch, "bulk.copied=error")
    with pytest.raises(ValueError, match=r"'bulk\.lunch' is not a failpoint"):
        await failpoints.reach("bulk.lunch")  # type: ignore[arg-type]


async def test_it_acts_once_at_the_arrival_it_is_armed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _arm(monkeypatch, "bulk.copied=error@2;load.restored=lose")
    await failpoints.reach("bulk.copied")
    with pytest.raises(failpoints.FailpointError, match=r"bulk\.copied"):
        await failpoints.reach("bulk.copied")
    await failpoints.reach("bulk.copied")
    with pytest.raises(ConnectionResetError):
        await failpoints.reach("load.restored")


async def test_a_gate_tells_the_arrival_and_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    _arm(monkeypatch, "flip.target.before=wait")
    arriving = asyncio.create_task(failpoints.reach("flip.target.before"))
    await asyncio.sleep(0.05)
    assert (tmp_path / "flip.target.before.reached").exists()
    assert not arriving.done()
    (tmp_path / "flip.target.before.released").touch()
    async with asyncio.timeout(30):
        await arriving


def test_a_gate_without_a_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="a gate needs"):
        _arm(monkeypatch, "bulk.copied=wait")


def test_a_process_is_killed_where_it_was_told(tmp_path: Path) -> None:
    code = (
        "import asyncio; from eventsource import failpoints;"
        "asyncio.run(failpoints.reach('bulk.copied')); print('alive');"
        "asyncio.run(failpoints.reach('load.restored')); print('still alive')"
    )
    armed = {ARMED_VARIABLE: "load.restored=kill", DIRECTORY_VARIABLE: str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **armed}, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"alive\n")
    assert (tmp_path / "load.restored.reached").exists()


async def test_a_request_is_on_its_way_when_its_failpoint_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []

    async def request() -> str:
        sent.append("commit")
        await asyncio.sleep(0)
        return "done"

    _arm(monkeypatch, "cutover.decision.sent=error@2")
    assert await failpoints.in_flight("cutover.decision.sent", request()) == "done"
    with pytest.raises(failpoints.FailpointError):
        await failpoints.in_flight("cutover.decision.sent", request())
    assert sent == ["commit", "commit"]


def _arm(monkeypatch: pytest.MonkeyPatch, armed: str) -> None:
    """For this test; the plan before comes back."""
    monkeypatch.setenv(ARMED_VARIABLE, armed)
    monkeypatch.setattr(failpoints, "_plan", failpoints._plan)
    failpoints.arm()
