"""The demonstration: what it prints, what it proves, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from eventsource.cli.report import seal

SMALL = ("demo", "--events", "4000", "--seconds", "1")


def start(*args: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from eventsource.cli import main; main()", *args],
        # Servers, writers' records and configuration: all of it has to end up here.
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def temporary() -> Path:
    # Short enough for the path of a socket, and open to the account that the servers run as.
    path = Path(tempfile.mkdtemp(prefix="demo-"))
    path.chmod(0o755)
    return path


def processes_of(temporary: Path) -> list[str]:
    """Command lines of running processes that name the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(temporary) in line:
                found.append(line)
    return found


def nothing_is_left(temporary: Path) -> bool:
    deadline = time.monotonic() + 10
    while processes_of(temporary) or any(temporary.iterdir()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    temporary.rmdir()
    return True


# How much the writers add before the copy begins is a matter of the machine's load.
@pytest.mark.alone
def test_demo_moves_a_tenant_under_load_and_prints_the_proof(temporary: Path) -> None:
    command = start(*SMALL, temporary=temporary)
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 0, output + errors
    assert re.search(r"^copied +4,\d{3} events in .* events/s$", output, re.MULTILINE), output
    assert re.search(r"^pause of the writers +\d+\.\d ms$", output, re.MULTILINE)
    assert re.search(r"^return +the fence was held for .* lives in 'shared' again$", output, re.M)
    assert re.search(r"^pause at the return +\d+\.\d ms$", output, re.MULTILINE)
    assert re.search(r"^longest append +\d+\.\d ms at the cutover", output, re.MULTILINE)
    assert re.search(r"^acknowledged events +[\d,]+, found [\d,]+, lost 0$", output, re.MULTILINE)
    assert re.search(r"^other tenants untouched +yes, they wrote \d+", output, re.MULTILINE)
    assert re.search(
        r"^subscriptions +skipped 0, redelivered (\d+) \(predicted \1\); one followed by itself,",
        output, re.M,
    )  # fmt: skip
    assert re.search(r"^report of the return +unchanged, sha256 [0-9a-f]{64}$", output, re.M)
    assert "every promise kept" in output
    assert "postgresql://" not in output + errors
    assert nothing_is_left(temporary)


def test_demo_prints_one_json_document_and_progress_beside_it(
    temporary: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    command = start(*SMALL, "--json", "--report", str(report), temporary=temporary)
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 0, output + errors
    result = json.loads(output)
    assert result["is_sound"] is True
    assert result["lost"] == 0
    assert result["found"] == result["acknowledged"] > 4000
    assert result["events_copied"] >= 4000
    assert result["pause_ms"] > 0
    assert result["latencies"]["at_cutover"] <= result["latencies"]["longest"]
    assert result["others_untouched"] is True
    assert result["others_appended"] > 0
    assert result["skipped"] == 0
    assert result["redelivered"] == result["redelivered_predicted"]
    assert result["returned_pause_ms"] > 0
    assert result["written_since"] > 0
    assert result["followed"] > 0
    assert seal.digest_of(report.read_bytes()) == result["report_sha256"]
    assert "cutover" in errors
    assert nothing_is_left(temporary)


@pytest.mark.parametrize("when", ["servers   Post", "writers   3", "follow "])
def test_ctrl_c_ends_servers_and_writers(temporary: Path, when: str) -> None:
    command = start(*SMALL, temporary=temporary)
    assert command.stdout is not None
    assert any(line.startswith(when) for line in command.stdout)
    command.send_signal(signal.SIGINT)
    output, errors = command.communicate(timeout=60)
    assert command.returncode == 130, output + errors
    assert "stopped; servers, writers and files are gone" in errors
    assert "Traceback" not in output + errors
    assert nothing_is_left(temporary)


def test_kept_servers_answer_other_commands(temporary: Path) -> None:
    command = start(*SMALL, "--keep", temporary=temporary)
    assert command.stdout is not None
    line = next(line for line in command.stdout if "EVENTSOURCE_CONFIG=" in line)
    config = line.strip().partition("=")[2]
    listed = start("list", "--json", "--config", config, temporary=temporary)
    output, errors = listed.communicate(timeout=30)
    assert listed.returncode == 0, errors
    assert [each["state"] for each in json.loads(output)] == ["migrated"] * 2
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=60)
    assert nothing_is_left(temporary)
