"""What a plan foretells: who is in the way already, and what was rehearsed."""

from __future__ import annotations

import time

import psycopg
import pytest

from eventsource.migration.preflight import surroundings
from tests.support.command_line import DEDICATED, SHARED, CommandLine


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


def test_a_plan_names_who_reads_the_tenant_and_how_much_each_has_left(ready: CommandLine) -> None:
    ready.sql("control", "drop table subscription_checkpoints")
    assert (
        "none has a checkpoint in 'shared'" in ready("plan", ready.tenant, "--to", DEDICATED).stdout
    )
    ready("init")
    assert ready.json("plan", ready.tenant, "--to", DEDICATED)["subscriptions"] == []
    mine = ready.sql(
        "source",
        "select global_position from events where tenant_id = $1 order by 1 desc limit 4",
        ready.tenant,
    )
    highest, fourth = mine[0][0], mine[3][0]
    for name, store, tenant, position in (
        ("invoices", SHARED, ready.tenant, fourth),
        ("search", SHARED, None, highest),
        ("search", DEDICATED, None, 0),
        ("mail", SHARED, ready.other, 1),
        ("invoices", DEDICATED, ready.tenant, 7),
        ("audit", "elsewhere", None, 1),
    ):
        ready.sql(
            "control",
            "insert into subscription_checkpoints (subscription_name, store_id, tenant_id,"
            " position) values ($1, $2, $3, $4)",
            name, store, tenant, position,
        )  # fmt: skip
    found = ready.json("plan", ready.tenant, "--to", DEDICATED)["subscriptions"]
    seen = [
        (each["subscription_name"], each["store_id"], each["reads_all"], each["events_left"])
        for each in found
    ]
    assert seen == [
        ("invoices", SHARED, False, 3),
        ("search", DEDICATED, True, None),
        ("search", SHARED, True, 0),
    ]
    shown = ready("plan", ready.tenant, "--to", DEDICATED).stdout
    assert "'invoices' reads this one, 3 of its events left, saved" in shown
    assert "'search' reads all tenants of 'dedicated' and gets its new events there" in shown
    assert "'search' reads all tenants, 0 of its events left, saved" in shown
    assert "mail" not in shown
