"""What a plan foretells: who is in the way already, and what was rehearsed."""

from __future__ import annotations

import time

import psycopg
import pytest

from eventsource.migration.preflight import surroundings
from tests.support.command_line import DEDICATED, CommandLine


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_transaction_is_named_after_seconds_and_warned_of_after_a_minute(
    ready: CommandLine, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    dsn = {"source": ready.source_dsn, "target": ready.target_dsn}[side]
    with psycopg.connect(dsn, application_name="nightly-report") as connection:
        connection.execute("select count(*) from events")
        pid = connection.info.backend_pid
        assert ready.json("plan", ready.tenant, "--to", DEDICATED)["remarks"] == []
        time.sleep(surroundings.SEEN_SECONDS + 0.5)
        planned = ready("plan", ready.tenant, "--to", DEDICATED)
        assert f"open at the {side} for a while: pid {pid} (nightly-report" in planned.stdout
        assert "warning" not in planned.output
        monkeypatch.setattr(surroundings, "OLD_SECONDS", 3)
        planned = ready("plan", ready.tenant, "--to", DEDICATED)
        assert f"warning: open at the {side} for a while: pid {pid}" in planned.stderr
        assert "open now" not in planned.stdout


def test_a_plan_shows_what_was_rehearsed_also_before_a_later_move(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    begun = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "dual_write: it has begun" in begun
    assert "not rehearsed" in begun
    for _ in range(2):
        ready("cutover", "--tenant", ready.tenant, "--rehearse", "--operator", "ada")
    begun = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "the last rehearsal held the fence" in begun
    assert "2 of 2 fitted" in begun
    assert begun.count("\nrehearsed ") == 2
    assert "by ada" in begun
    assert "undo" in begun
    document = ready.json("plan", ready.tenant, "--to", DEDICATED)
    assert document["outcome"] == "under_way"
    assert [each["fits"] for each in document["rehearsals"]] == [True, True]
    assert ready.migration()["state"] == "dual_write"
    ready("abort", "--tenant", ready.tenant)
    later = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "passed; nothing was changed" in later
    assert "2 of 2 fitted" in later
