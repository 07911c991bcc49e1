"""`fleet`: from the choice of tenants to the report."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import time
from uuid import UUID, uuid4

import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine, wait_until
from tests.support.fleet_worker import FleetWorker
from tests.support.screen import Screen
from tests.support.terminal import Terminal


@pytest.fixture
def three(ready: CommandLine) -> CommandLine:
    """Three tenants: one of 400 events, one of 40, and one of 2."""
    ready.sql("source", _SEED, SMALL)
    return ready


SMALL = uuid4()

_SEED = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    timestamp, payload)
select gen_random_uuid(), gen_random_uuid(), 'Note', 'note.taken', $1, 1, now(), '{}'
from generate_series(1, 2)
"""


def planned(cli: CommandLine, *words: object, exit_code: int = 0) -> dict[str, object]:
    found: dict[str, object] = cli.json(
        "fleet", "plan", "night", "--to", DEDICATED, *words, exit_code=exit_code
    )
    return found


def tenants_of(cli: CommandLine) -> list[UUID]:
    rows = cli.sql("control", "select tenant_id from migration_wave_items order by ordinal")
    return [UUID(row[0]) for row in rows]


def file_of(cli: CommandLine, *lines: object) -> str:
    path = cli.directory / "tenants.csv"
    path.write_text("\n".join(map(str, lines)))
    return str(path)


def test_a_plan_names_tenants_of_which_nobody_has_heard(three: CommandLine) -> None:
    """Once a slip of the keyboard was one of two that nothing stands against."""
    typed_wrong = uuid4()
    words = ("--file", file_of(three, three.tenant, typed_wrong))
    plan = planned(three, *words)
    assert plan["plan"]["empty"] == [str(typed_wrong)]  # type: ignore[index]
    said = three("fleet", "plan", "night", "--to", DEDICATED, *words, "--replace").output
    assert f"'{SHARED}' holds no event of tenant {typed_wrong}: check the id" in said
    assert str(three.tenant) not in said


@pytest.mark.parametrize(
    ("to", "written", "said"),
    [
        (SHARED, ["{big}", "{other}"], "all 2 tenants live in 'shared' already"),
        (SHARED, ["{big}"], "the tenant lives in 'shared' already"),
        (DEDICATED, ["{big}, shared"], "the tenant lives in 'shared' already"),
        (SHARED, ["{big}, , shared", "{other}"], "all 2 tenants live in 'shared' already"),
        # What a list says of where it left is of before its move.
        (DEDICATED, ["{big}, shared, dedicated"], "the tenant lives in 'shared' already"),
    ],
)
def test_a_wave_of_tenants_that_live_there_already_says_so(
    ready: CommandLine, to: str, written: list[str], said: str
) -> None:
    """It said to choose at least one tenant."""
    lines = [each.format(big=ready.tenant, other=ready.other) for each in written]
    shown = ready("fleet", "plan", "night", "--file", file_of(ready, *lines), "--to", to,
                  exit_code=1).output  # fmt: skip
    assert said in shown
    assert "choose at least one" not in shown


def test_a_plan_says_how_many_stay_where_they_are(ready: CommandLine) -> None:
    lines = file_of(ready, f"{ready.tenant}, {DEDICATED}", f"{ready.other}, {SHARED}")
    shown = ready("fleet", "plan", "night", "--file", lines).output
    assert "left out: 1 tenant that would stay in the same store" in shown
    nobody = ready("fleet", "plan", "none", "--file", file_of(ready, "# nobody"), exit_code=1)
    assert "choose at least one tenant" in nobody.output


def test_a_plan_by_size_shows_what_it_takes_and_moves_nothing(three: CommandLine) -> None:
    plan = planned(three, "--largest", 2, "--from-store", SHARED)
    assert plan["wave"]["state"] == "planned"  # type: ignore[index]
    assert plan["plan"]["events"] == 440  # type: ignore[index]
    assert plan["refused"] == {}
    assert tenants_of(three) == [three.tenant, three.other]
    assert three.json("list") == []
    shown = three("fleet", "status", "night").output
    assert "0 of 2 have moved" in shown
    again = three("fleet", "plan", "night", "--largest", 1, "--to", DEDICATED, exit_code=1)
    assert "--replace" in again.output
    planned(three, "--largest", 3, "--replace", "--order", "smallest")
    assert tenants_of(three) == [SMALL, three.other, three.tenant]


def test_the_largest_are_those_that_live_there(three: CommandLine) -> None:
    """Who has moved has left its old rows behind, and is often the largest."""
    three("run", three.tenant, "--to", DEDICATED, "--yes")
    planned(three, "--largest", 1, "--from-store", SHARED)
    assert tenants_of(three) == [three.other]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select null::uuid", "a tenant that is null"),
        ("show statement_timeout", "10min"),
        ("delete from events returning tenant_id", "read-only"),
    ],
)
def test_a_query_that_names_no_tenant_is_refused(three: CommandLine, query: str, said: str) -> None:
    """It may only read, and not for ever."""
    assert (
        said
        in three("fleet", "plan", "night", "--to", DEDICATED, "--query", query, exit_code=1).output
    )
    assert three.count("source", SMALL) == 2


def test_a_plan_by_query_keeps_the_order_of_the_query(three: CommandLine) -> None:
    query = "select tenant_id from events group by 1 order by count(*)"
    planned(three, "--query", query)
    assert tenants_of(three) == [SMALL, three.other, three.tenant]


def test_a_plan_by_file_says_who_would_be_refused(three: CommandLine) -> None:
    three.sql("target", _SEED, SMALL)
    plan = planned(three, "--file", file_of(three, three.tenant, SMALL), "--each")
    assert list(plan["refused"]) == [str(SMALL)]  # type: ignore[call-overload]
    assert plan["examined"] == 1
    assert len(tenants_of(three)) == 2
    # Ever so little may lie there.
    bound = ("--set", 'fleet.max_disk={dedicated="1 MB"}', "--replace")
    plan = planned(three, "--file", file_of(three, three.tenant), *bound)
    assert "max_disk allows 1.0 MB" in plan["refused"][str(three.tenant)]  # type: ignore[index]
    [arriving] = plan["plan"]["arrivals"].values()  # type: ignore[index]
    assert (arriving["max_bytes"], arriving["there_bytes"] > 10**6) == (10**6, True)


@pytest.mark.parametrize(
    "words",
    [
        [], ["--largest", "2", "--query", "select 1"], ["--largest", "0"],
        ["--largest", "2", "--window", "soon"], ["--largest", "2", "--order", "random"],
        ["--largest", "2", "--window-for", "tea"], ["--largest", "2", "--from-store", "nowhere"],
        ["--file", "missing.csv"],
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_matter_of_usage(ready: CommandLine, words: list[str]) -> None:
    ready("fleet", "plan", "night", "--to", DEDICATED, *words, exit_code=2)
    assert ready.sql("control", "select * from migration_waves") == []


def test_a_wave_that_there_is_not_is_named(ready: CommandLine) -> None:
    for verb in ("start", "status", "stop", "resume", "retry", "report"):
        assert "'nothing'" in ready("fleet", verb, "nothing", exit_code=1).output
    assert "no wave yet" in ready("fleet", "status").output


def test_a_report_names_no_comparison_that_was_left_out(three: CommandLine) -> None:
    planned(three, "--largest", 3)
    three("fleet", "start", "night")
    with FleetWorker(three.config, "worker", "--until-done") as worker:
        assert worker.wait(90) == 0, worker.output()
    # As `cutover --force` by hand, a sample, and a journal that a repair has made again.
    of = "where event_type = 'cutover_requested' and migration_id = (select id from"
    of += " tenant_migrations where tenant_id = '{}')"
    three.sql(
        "control",
        'update migration_audit_log set details = details || \'{"comparison": "left out"}\' '
        + of.format(three.tenant),
    )
    three.sql(
        "control",
        "update tenant_migrations set config = config || '{\"sample_percentage\": 10}'"
        f" where tenant_id = '{three.other}'",
    )
    three.sql("control", f"delete from migration_audit_log {of.format(SMALL)}")
    rows = three.json("fleet", "report", "night")["tenants"]
    assert [row["proof"] for row in rows] == [
        "bulk copy, last pass",
        "bulk copy, comparison (hash, a sample of 10 %), last pass",
        "bulk copy, last pass",
    ]


def test_a_wave_from_its_plan_to_its_report(three: CommandLine) -> None:
    planned(three, "--largest", 3)
    three("fleet", "start", "night")
    with FleetWorker(three.config, "worker", "--until-done") as worker:
        assert worker.wait(90) == 0, worker.output()
    assert "3 moved" in worker.output()
    lines = worker.output().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines), worker.output()
    for tenant, events in ((three.tenant, 400), (three.other, 40), (SMALL, 2)):
        assert three.count("target", tenant) == events
    rows = three.json("fleet", "report", "night")["tenants"]
    assert [row["outcome"] for row in rows] == ["moved"] * 3
    assert rows[0]["proof"] == "bulk copy, comparison (hash), last pass"
    assert rows[0]["last_target_position"] > 0
    assert rows[0]["pause_ms"] > 0
    path = three.directory / "report.csv"
    three("fleet", "report", "night", "--format", "csv", "--output", path)
    read = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["tenant_id"] for row in read] == [row["tenant_id"] for row in rows]
    page = three("fleet", "report", "night", "--format", "html").output
    assert str(SMALL) in page
    assert json.loads(three("fleet", "report", "night", "--format", "json").output)["tenants"]
    listed = three.json("fleet", "status")
    assert [each["wave"]["state"] for each in listed] == ["done"]
    assert not re.search(r"^left\b", three("fleet", "status", "night").output, re.MULTILINE)
    report = Terminal(three, "fleet", "report", "night")
    assert report.end() == 0
    screen = Screen(80)
    screen.feed(report.output)
    assert screen.wrapped == []


@pytest.fixture
def held(three: CommandLine) -> CommandLine:
    """A wave whose one tenant cannot begin: its target already has rows of it."""
    three.sql("target", _SEED, SMALL)
    planned(three, "--file", file_of(three, SMALL))
    three("fleet", "start", "night")
    with FleetWorker(three.config, "worker", "--until-done") as worker:
        assert worker.wait(60) == 0, worker.output()
    return three


def test_what_was_refused_is_shown_and_tried_again(held: CommandLine) -> None:
    shown = held("fleet", "status", "night").output
    assert "1 refused" in shown
    assert "0.0" not in shown
    assert "already holds events" in shown
    held.sql("target", "delete from events")
    assert held.json("fleet", "retry", "night", SMALL)["tenants"] == 1
    with FleetWorker(held.config, "again", "--until-done") as worker:
        assert worker.wait(60) == 0, worker.output()
    assert held.count("target", SMALL) == 2


def test_a_stop_and_a_resumption_are_recorded_with_who_asked(three: CommandLine) -> None:
    planned(three, "--largest", 1)
    three("fleet", "start", "night", "--operator", "ann")
    stopped = three.json("fleet", "stop", "night", "--reason", "lunch", "--operator", "ben")
    assert (stopped["wave"]["stopped_by"], stopped["wave"]["stop_reason"]) == ("ben", "lunch")
    assert "STOPPED" in three("fleet", "status", "night").output.upper()
    assert "stopped already" in three("fleet", "stop", "night").output
    resumed = three.json("fleet", "resume", "night", "--operator", "cid")
    assert resumed["wave"]["state"] == "running"
    history = [(each["what"], each["by"]) for each in resumed["wave"]["history"]]
    assert history[1:] == [("started", "ann"), ("stopped", "ben"), ("resumed", "cid")]


@pytest.mark.parametrize("before", ["planned", "stopped", "done"])
def test_a_stop_of_a_wave_that_does_not_run_says_only_what_can_be_done(
    three: CommandLine, before: str
) -> None:
    planned(three, "--largest", 1)
    if before != "planned":
        three("fleet", "start", "night")
    if before == "stopped":
        three("fleet", "stop", "night")
    if before == "done":
        with FleetWorker(three.config, "worker", "--until-done") as worker:
            assert worker.wait(60) == 0, worker.output()
    said = three("fleet", "stop", "night").output
    assert f"was {before} already" in said
    printed = re.findall(r"eventsource-migrate (.+)", said)
    assert len(printed) == (before != "done")
    for each in printed:
        three(*each.split())
        assert three.json("fleet", "status", "night")["wave"]["state"] == "running"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_when_it_is_asked_to(three: CommandLine, signum: int) -> None:
    with FleetWorker(three.config, "worker") as worker:
        wait_until(lambda: "carrying the tenants" in worker.output())
        worker._process.send_signal(signum)
        assert worker.wait(30) == 0, worker.output()
    assert "Traceback" not in worker.output()


def test_a_worker_outlives_its_connections(three: CommandLine) -> None:
    """As a restart of the control database ends them, while it works and while it looks."""
    planned(three, "--largest", 3)
    three("fleet", "start", "night")
    with FleetWorker(three.config, "worker", "--until-done") as worker:
        wait_until(lambda: "wave night is running" in worker.output())
        for _ in range(8):
            three.sql(
                "control",
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()",
            )
            time.sleep(0.4)
        assert worker.wait(120) == 0, worker.output()
    assert three.count("target", SMALL) == 2


def test_fleet_settings_are_checked(ready: CommandLine) -> None:
    for wrong in (
        "fleet.at_once=0", "fleet.at_once=many", "fleet.limits={nowhere=2}", "fleet.x=1",
        "fleet.limits=2", 'fleet.max_disk={nowhere="1 GB"}', 'fleet.max_disk={dedicated="1 gb"}',
        "fleet.max_disk={dedicated=1000}", 'fleet.max_disk="1 GB"',
    ):  # fmt: skip
        assert "[fleet]" in ready("fleet", "status", "--set", wrong, exit_code=2).output
