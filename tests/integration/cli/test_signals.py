"""Ctrl-C and SIGTERM in every phase: the state stays clean, and the next run goes on.

The phase is where a failpoint keeps the command; the signal comes there.
"""

from __future__ import annotations

import re
import signal
from functools import partial
from pathlib import Path

import pytest

from eventsource._core import HAS_FAILPOINTS
from tests.support.command_line import DEDICATED, CommandLine, wait_until

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}

#: In the order of a move. Before `start` is committed there is nothing to go on with.
PHASES = [
    "preflight.passed",
    "start.committed",
    "lease.committed",
    "guard.target.reserved",
    "guard.target.triggers.committed",
    "guard.source.created",
    "guard.source.triggers.committed",
    "snapshot.taken",
    "snapshot.barrier.committed",
    "snapshot.stored.committed",
    "bulk.chunk.read",
    "bulk.chunk.copied",
    "bulk.chunk.committed",
    "bulk.range.proven",
    "bulk.completed.committed",
    "follow.entered.committed",
    "cutover.verified",
    "cutover.entered.committed",
    "cutover.fence.wait",
    "cutover.fence.held",
    "cutover.barrier.committed",
    "cutover.decision.before",
    "cutover.decision.committed",
    "flip.target.before",
    "flip.target.committed",
    "flip.journal.committed",
]
IN_EVERY_RUN = {
    ("guard.source.created", signal.SIGTERM),
    ("cutover.fence.held", signal.SIGINT),
    ("cutover.decision.committed", signal.SIGTERM),
}


@pytest.mark.skipif(not HAS_FAILPOINTS, reason="this build has no failpoints in the data plane")
@pytest.mark.parametrize(
    ("phase", "by"),
    [
        pytest.param(
            phase,
            by,
            marks=[] if (phase, by) in IN_EVERY_RUN else [pytest.mark.infra],
            id=f"{by.name} at {phase}",
        )
        for phase in PHASES
        for by in (signal.SIGINT, signal.SIGTERM)
    ],
)
def test_a_signal_leaves_a_state_that_the_next_run_goes_on_from(
    ready: CommandLine, tmp_path: Path, phase: str, by: signal.Signals
) -> None:
    events = ready.count("source")
    gates = tmp_path / "gates"
    gates.mkdir()
    command = ready.popen(
        "run", ready.tenant, "--to", DEDICATED, "--yes",
        EVENTSOURCE_FAILPOINTS=f"{phase}=wait", EVENTSOURCE_FAILPOINTS_DIRECTORY=str(gates),
    )  # fmt: skip
    try:
        wait_until(lambda: (gates / f"{phase}.reached").exists() or command.poll() is not None)
        command.send_signal(by)
        output, _ = command.communicate(timeout=30)
    finally:
        command.kill()
        command.wait()
    assert (gates / f"{phase}.reached").exists(), output
    assert command.returncode == EXIT_CODES[by], output
    assert "Traceback" not in output
    ready.refuse_passwords(output)
    found = ready.sql("control", "select id, driver_owner from tenant_migrations")
    assert len(found) == (phase != "preflight.passed")
    # Nobody has to wait for a lease of a process that is gone.
    assert [row["driver_owner"] for row in found] in ([], [None])
    # No session of it holds anything.
    for side in ("source", "target", "control"):
        left = "select count(*) from pg_stat_activity where datname = current_database()"
        left += " and application_name like 'eventsource-migrate%'"
        wait_until(partial(_counts_nothing, ready, side, left))

    answer = ready.json("run", ready.tenant, "--to", DEDICATED, "--yes")
    assert answer["migration"]["state"] == "migrated"
    assert found == [] or answer["migration"]["id"] == str(found[0]["id"])
    assert ready.count("target") == ready.count("source") == events
    assert ready.migration()["events_copied"] == events


@pytest.mark.skipif(not HAS_FAILPOINTS, reason="this build has no failpoints in the data plane")
@pytest.mark.parametrize("asked_for", ["cutover", "rehearsal"])
@pytest.mark.parametrize(
    ("phase", "taken_back_by", "state"),
    [
        ("cutover.verified", "pause", "paused"),
        ("cutover.fence.wait", "abort", "rolled_back"),
        ("cutover.fence.held", "abort", "rolled_back"),
    ],
)
def test_a_cutover_that_was_interrupted_is_taken_back_as_it_is_said(
    ready: CommandLine, tmp_path: Path, phase: str, taken_back_by: str, state: str, asked_for: str
) -> None:
    """It named `pause` alone, which is refused from when the fence is asked for.

    Of a rehearsal it said that nothing was asked for, and the next driver held the fence.
    """
    ready("run", ready.tenant, "--to", DEDICATED)
    events = ready.count("source")
    gates = tmp_path / "gates"
    gates.mkdir()
    command = ready.popen(
        "cutover", "--tenant", ready.tenant, "--yes",
        *(["--rehearse"] if asked_for == "rehearsal" else []),
        EVENTSOURCE_FAILPOINTS=f"{phase}=wait", EVENTSOURCE_FAILPOINTS_DIRECTORY=str(gates),
    )  # fmt: skip
    try:
        wait_until(lambda: (gates / f"{phase}.reached").exists() or command.poll() is not None)
        command.send_signal(signal.SIGINT)
        output, _ = command.communicate(timeout=30)
    finally:
        command.kill()
        command.wait()
    assert f"the {asked_for} stays requested" in output
    said = re.findall(r"eventsource-migrate (\w+) ([0-9a-f-]{36})", output)
    assert [verb for verb, _ in said] == ["pause", "abort"], output
    for verb, migration in said:
        if verb == taken_back_by:
            ready(verb, migration)
    left = ready.migration()
    assert left["state"] == state
    if state == "paused":
        # Nothing of it is carried out when the migration is resumed.
        assert (left["cutover_request"], left["rehearsal_request"]) == (None, None)
    assert ready.count("source") == events


def _counts_nothing(cli: CommandLine, side: str, query: str) -> bool:
    return bool(cli.sql(side, query)[0][0] == 0)
