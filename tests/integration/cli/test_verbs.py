"""Each verb against real servers: what it changes, what it prints, how it exits."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from eventsource.cli import plan as plans
from tests.support.command_line import DEDICATED, SHARED, CommandLine, wait_until


def test_init_makes_everything_and_may_be_repeated(cli: CommandLine) -> None:
    cli("init")
    ready = cli.json("init")["ready"]
    assert ready == [
        "control tables",
        "store shared",
        "store dedicated",
        "subscription checkpoints",
    ]
    tables = "select count(*) from pg_tables where schemaname = 'public' and tablename = any($1)"
    control = ["tenant_migrations", "tenant_routing", "subscription_checkpoints"]
    assert cli.sql("control", tables, control)[0][0] == 3
    for side in ("source", "target"):
        assert cli.sql(side, tables, ["events", "eventsource_fences"])[0][0] == 2


def test_commands_before_init_say_to_run_it(cli: CommandLine) -> None:
    result = cli("list", exit_code=1)
    assert "run `eventsource-migrate init`" in result.output
    refused = cli("run", cli.tenant, "--to", DEDICATED, "--yes", exit_code=None)
    assert refused.exit_code in (1, 3)
    assert "run `eventsource-migrate init`" in refused.output


def test_plan_estimates_and_changes_nothing(ready: CommandLine) -> None:
    plan = ready.json("plan", ready.tenant, "--to", DEDICATED)
    assert plan["events"] == 400
    assert plan["bytes"] > 400 * 100
    assert plan["source"] == SHARED
    assert ready.json("list") == []
    assert ready.sql("source", "select * from eventsource_fences") == []
    assert ready.sql("control", "select * from tenant_routing") == []
    assert "passed; nothing was changed" in ready("plan", ready.tenant, "--to", DEDICATED).output


def test_plan_lists_what_stays(ready: CommandLine) -> None:
    ready.sql("source", "create table outbox (id bigint, tenant_id uuid)")
    ready.sql("source", "create table marks (event_id uuid references events (event_id))")
    plan = ready.json("plan", ready.tenant, "--to", DEDICATED)
    assert plan["companions"] == ["public.marks", "public.outbox"]
    assert plan["not_carried"] == {"transaction_id": "each side's own"}
    assert plan["fires"] == []
    assert plan["connections"]["free"] > plan["connections"]["needed"]
    assert plan["room"]["target"] >= plan["bytes"] > 0
    assert plan["room"]["control"] == 160 * plan["events"]
    assert [each["kind"] for each in plan["findings"]] == ["companion"]
    assert "public.marks" in plan["warnings"][0]


def test_plan_says_what_an_offset_saves(
    ready: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_offset = ("--set", "defaults.position_mapping=offset")
    assert ready.json(*by_offset, "plan", ready.tenant, "--to", DEDICATED)["room"]["control"] == 0
    said = " ".join(ready(*by_offset, "plan", ready.tenant, "--to", DEDICATED).output.split())
    assert 'none in the control database (position_mapping "offset" saves 0.1 MB)' in said
    with_rows = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "position_mapping" not in with_rows
    # Where it is worth a word, it is offered.
    monkeypatch.setattr(plans, "WORTH_SAVING", 1000)
    said = " ".join(ready("plan", ready.tenant, "--to", DEDICATED).output.split())
    assert 'in the control database (position_mapping = "offset" needs none)' in said


def test_a_layout_for_a_whole_schema_is_written_from_a_store(ready: CommandLine) -> None:
    text = ready("layouts", "mine", "--whole", SHARED).output
    assert '[layouts."mine"]' in text
    assert 'tenant = "whole"' in text
    assert 'table = "events"' in text
    assert "[stores.nowhere]" in ready("layouts", "mine", "--whole", "nowhere", exit_code=2).output


def test_run_moves_a_tenant_from_end_to_end(ready: CommandLine) -> None:
    result = ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--operator", "ada")
    assert "400 events" in result.output
    assert "the fence was held for" in result.output
    assert (ready.count("target"), ready.count("target", ready.other)) == (400, 0)
    route = ready.sql("control", "select store_id, migration_state from tenant_routing")
    assert [tuple(row) for row in route] == [(DEDICATED, "normal")]
    who = "select distinct operator from migration_audit_log where operator is not null"
    assert [row[0] for row in ready.sql("control", who)] == ["ada"]


def test_run_prints_one_json_document(ready: CommandLine) -> None:
    answer = ready.json("run", ready.tenant, "--to", DEDICATED, "--yes")
    assert answer["outcome"] == "migrated"
    assert answer["migration"]["state"] == "migrated"
    assert answer["migration"]["events_copied"] == 400
    assert answer["verification"]["is_consistent"] is True
    assert answer["verification"]["level"] == "hash"
    assert answer["pause_ms"] > 0
    again = ready.json("run", ready.tenant, "--to", DEDICATED, "--yes")
    assert again["outcome"] == "already_there"


def test_run_without_a_terminal_and_without_yes_stops_before_the_cutover(
    ready: CommandLine,
) -> None:
    result = ready("run", ready.tenant, "--to", DEDICATED)
    assert "stopped   before the cutover" in result.output
    migration = ready.migration()
    assert (migration["state"], migration["driver_owner"]) == ("dual_write", None)
    assert ready.json("run", ready.tenant, "--to", DEDICATED)["outcome"] == "ready"

    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    assert ready.migration()["id"] == migration["id"]
    assert ready.migration()["state"] == "migrated"


def test_an_empty_tenant_moves(ready: CommandLine) -> None:
    nobody = uuid4()
    answer = ready.json("run", nobody, "--to", DEDICATED, "--yes", "--empty")
    assert answer["migration"]["events_copied"] == 0
    assert answer["events_per_second"] is None


def test_a_tenant_goes_back_where_it_came_from_only_by_a_move_that_preflight_allows(
    ready: CommandLine,
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    id_ = ready.migration()["id"]
    back = ("run", ready.tenant, "--to", SHARED, "--yes")
    refused = ready("plan", ready.tenant, "--to", SHARED, exit_code=3).output
    assert "and may still return" in refused
    assert f"`eventsource-migrate return {id_}`" in refused
    assert f"eventsource-migrate return {id_}" in ready(*back, exit_code=3).output
    ready("way-back", "close", id_)
    refused = ready(*back, exit_code=3).output
    assert "already holds events of tenant" in refused
    assert f"`eventsource-migrate cleanup {id_}`" in refused
    ready("cleanup", id_, "--backed-up", "--now")
    ready(*back)


def test_a_way_back_whose_time_is_over_is_not_offered(ready: CommandLine) -> None:
    """`run` said that `return` takes the tenant back, and `return` that the way back had ended."""
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--keep-way-back", "1s")
    id_ = ready.migration()["id"]
    wait_until(lambda: "expired" in ready("status", id_).output)
    ended = ready("way-back", "status", id_).output.split("kept until")[1].splitlines()[0].strip()
    assert f"its way back ended at {ended}" in ready("return", id_, "--yes", exit_code=1).output
    close = f"eventsource-migrate way-back close {id_}"
    for asked in (("run", ready.tenant, "--to", SHARED, "--yes"), ("cleanup", id_, "--backed-up")):
        said = ready(*asked, exit_code=None).output
        assert "is over, but nothing has taken it down yet" in said
        assert close in said
        assert "may still return" not in said
        assert "needs the old rows" not in said
    ready(*close.split()[1:])
    ready("cleanup", id_, "--backed-up")
    ready("run", ready.tenant, "--to", SHARED, "--yes")
    assert ready.count("source") == 400


def test_next_is_the_way_back_only_where_there_is_one(ready: CommandLine) -> None:
    move = ("run", ready.tenant, "--to", DEDICATED, "--yes")
    done = ready.json(*move, "--keep-way-back", "1h")
    id_ = done["migration"]["id"]
    assert done["next"][1]["command"] == f"eventsource-migrate return {id_}"
    again = ready.json("cutover", id_)["next"][1]["command"]
    assert again == f"eventsource-migrate return {id_}"
    ready("way-back", "close", id_)
    again = ready.json("cutover", id_)["next"][1]["command"]
    assert again == f"eventsource-migrate cleanup {id_} --dry-run"
    refused = ready.json("return", id_, exit_code=1)["error"]["next"]
    assert not any(" return " in step["command"] for step in refused)


def test_single_steps_do_what_run_does(ready: CommandLine) -> None:
    started = ready.json("start", ready.tenant, "--to", DEDICATED)
    id_ = started["id"]
    assert ready.json("pause", id_)["state"] == "paused"
    assert ready.json("status", id_)["state"] == "paused"
    assert ready.json("resume", id_)["state"] in ("pending", "bulk_copy")
    assert [each["id"] for each in ready.json("status")] == [id_]
    moved = ready.json("cutover", id_)
    assert moved["state"] == "migrated"
    assert ready.json("lag", id_) == {"migration_id": id_, "lag": 0}
    assert ready.json("status") == []
    assert [each["state"] for each in ready.json("list")] == ["migrated"]
    assert ready.json("list", "--tenant", ready.other) == []
    events = [entry["event_type"] for entry in ready.json("audit", id_)]
    assert events[0] == "state:pending"
    assert "cutover_requested" in events
    shown = ready("audit", id_).output
    assert "migrated" in shown
    assert id_ in ready("list").output


def test_throttle_limits_a_migration_and_status_shows_it(ready: CommandLine) -> None:
    id_ = ready.json("start", ready.tenant, "--to", DEDICATED)["id"]
    assert "copies at most 2,500 events/s" in ready("throttle", id_, "2500").output
    assert ready.json("status", id_)["config"]["max_events_per_second"] == 2500
    assert "limit      2,500 events/s" in ready("status", id_).output
    lifted = ready.json("throttle", id_, "none", "--operator", "ada")
    assert lifted["config"]["max_events_per_second"] is None
    assert "limit " not in ready("status", id_).output
    asked = [each for each in ready.json("audit", id_) if each["event_type"] == "rate_set"]
    assert [each["details"]["max_events_per_second"] for each in asked] == [2500, None]
    assert asked[-1]["operator"] == "ada"
    for wrong in ("0", "fast", "nan", "1e12"):
        refused = ready("throttle", id_, wrong, exit_code=2)
        assert "none" in refused.output
    ready("abort", id_)
    assert "cannot be throttled" in ready("throttle", id_, "5", exit_code=1).output


def test_status_shows_what_slows_a_migration_down(ready: CommandLine) -> None:
    id_ = ready.json("start", ready.tenant, "--to", DEDICATED)["id"]
    ready.sql(
        "control",
        "update tenant_migrations set throttle_rate = 1840.2, throttle_reason = 'it is busy'",
    )
    assert "slowed to  1,840 events/s: it is busy" in ready("status", id_).output
    assert ready.json("status", id_)["throttle_reason"] == "it is busy"


def test_verify_compares_at_every_level(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    for level in ("count", "hash", "full"):
        report = ready.json("verify", ready.tenant, "--level", level)
        assert (report["is_consistent"], report["source_event_count"]) == (True, 400)
        assert report["level"] == level
    assert "20 of 20 streams equal" in ready("verify", ready.tenant).output
    explicit = ready.json("verify", ready.tenant, "--from", SHARED, "--to", DEDICATED)
    assert explicit["is_consistent"]


def test_verify_does_not_call_nothing_consistent(ready: CommandLine) -> None:
    """Once a slip of the keyboard was: `consistent: 0 events`, and exit code 0."""
    between = ("--from", SHARED, "--to", DEDICATED)
    said = ready("verify", uuid4(), *between, exit_code=2).output
    assert "nothing was compared" in said
    assert "check the id" in said
    empty = uuid4()
    ready("run", empty, "--to", DEDICATED, "--empty", "--yes")
    assert "consistent: 0 events" in ready("verify", empty).output
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    said = ready("verify", ready.tenant, "--sample", "0.01", exit_code=2).output
    assert "a sample of 0.01 % holds no stream" in said


def test_verify_compares_nothing_before_the_first_pass(ready: CommandLine) -> None:
    """What is still to come was named as missing, with exit code 4."""
    ready("start", ready.tenant, "--to", DEDICATED)
    for level in ("count", "hash", "full"):
        said = ready("verify", ready.tenant, "--level", level, exit_code=75).output
        assert "nothing was compared: no pass of migration" in said
    reverse = ("--from", DEDICATED, "--to", SHARED)
    ready("verify", ready.tenant, *reverse, exit_code=4)


def test_a_difference_is_exit_code_4_and_names_stream_event_and_field(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    changed = tamper(ready)
    report = ready.json("verify", ready.tenant, "--level", "full", exit_code=4)
    assert report["is_consistent"] is False
    assert [each["event_id"] for each in report["violations"]] == [changed]
    assert report["violations"][0]["field"] == "payload"
    shown = ready("verify", ready.tenant, exit_code=4).output
    assert "NOT consistent" in shown
    assert changed in shown

    refused = ready("run", ready.tenant, "--to", DEDICATED, "--yes", exit_code=4)
    assert "nothing was flipped" in refused.output
    assert ready.migration()["state"] == "dual_write"


def tamper(cli: CommandLine) -> str:
    """Change one payload at the target in a session that its guard lets pass; the event's id."""
    cli.session["eventsource.migration"] = str(cli.migration()["id"])
    [row] = cli.sql(
        "target",
        "update events set payload = payload || '{\"line\": -1}' where global_position ="
        " (select min(global_position) from events) returning event_id::text",
    )
    return str(row[0])


def test_abort_leaves_the_source_as_it_was_and_twice_is_a_no_op(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    id_ = str(ready.migration()["id"])
    answer = ready.json("abort", id_, "--reason", "second thoughts")
    assert answer["state"] == "rolled_back"
    assert ready.json("abort", id_)["state"] == "rolled_back"
    assert (ready.count("source"), ready.count("target")) == (400, 0)
    assert ready.sql("source", "select * from eventsource_fences") == []
    reasons = [
        entry["details"]["reason"]
        for entry in ready.json("audit", id_)
        if entry["event_type"] == "abort_requested"
    ]
    assert reasons == ["second thoughts"]
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    ready("abort", ready.migration()["id"], exit_code=1)


def test_subscriptions_are_planned_and_carried_over(ready: CommandLine) -> None:
    ready.sql(
        "control",
        "insert into subscription_checkpoints (subscription_name, store_id, tenant_id, position)"
        " values ('Billing', 'shared', $1, 200), ('Search', 'shared', null, 100)",
        ready.tenant,
    )
    answer = ready.json("run", ready.tenant, "--to", DEDICATED, "--yes")
    id_ = answer["migration"]["id"]
    plan = ready.json("subscriptions", "plan", id_)
    assert [each["subscription_name"] for each in plan["planned_migrations"]] == [
        "Billing",
        "Search",
    ]
    assert "Billing" in ready("subscriptions", "plan", id_, "Billing").output
    summary = ready.json("subscriptions", "migrate", id_)
    assert all(each["success"] and each["created"] for each in summary["results"])
    planned = [each["planned_target_position"] for each in plan["planned_migrations"]]
    assert [each["target_position"] for each in summary["results"]] == planned
    repeated = ready.json("subscriptions", "migrate", id_, "Billing")
    assert [each["created"] for each in repeated["results"]] == [False]


def test_status_watch_prints_every_change_as_a_line_of_json(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    result = ready("status", ready.migration()["id"], "--watch", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["state"] for each in lines] == ["migrated"]


def test_an_unknown_migration_is_told_in_one_line(cli: CommandLine) -> None:
    cli("init")
    missing = uuid4()
    for verb in ("status", "lag", "cutover", "pause", "resume", "abort", "audit"):
        result = cli(verb, missing, exit_code=1)
        assert f"there is no migration {missing}" in result.output
        assert result.output.count("\n") == 1
        assert cli.json(verb, missing, exit_code=1)["error"]["code"] == "not_found"
