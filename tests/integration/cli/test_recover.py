"""`repair` and `rebind`, as an operator types them."""

from __future__ import annotations

import json
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine


def forget(cli: CommandLine) -> None:
    """The control database is restored from a time before the first move."""
    cli.sql(
        "control",
        "truncate tenant_migrations, tenant_routing, migration_position_mappings,"
        " migration_audit_log cascade",
    )


def stray(cli: CommandLine) -> UUID:
    """The source has forgotten the move, and somebody has appended there since."""
    cli.sql("source", "delete from eventsource_fences")
    cli.sql("source", "select eventsource_guard_renew('events')")
    event = uuid4()
    cli.sql(
        "source",
        "insert into events (aggregate_id, tenant_id, version, event_id, aggregate_type,"
        " event_type, timestamp, payload) values ($1, $2, 1, $3, 'Note', 'noted', now(), '{}')",
        uuid4(), cli.tenant, event,
    )  # fmt: skip
    return event


def test_repair_says_what_it_would_change_and_asks(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    migration = ready.migration()["id"]
    assert "nothing to repair" in ready("repair").stdout
    forget(ready)
    said = ready("repair").output
    assert f"migration {migration} has decided, and the journal has no row" in said
    assert f"tenant {ready.tenant} has no route and lives in '{DEDICATED}'" in said
    assert "eventsource-migrate repair --yes" in said
    assert ready.sql("control", "select * from tenant_routing") == []
    assert "repaired" in ready("repair", "--yes", "--operator", "ann").output
    assert ready.migration()["state"] == "migrated"
    # Once there were none, and those were 100 %.
    assert "400 events, 100 %" in ready("status", migration).output
    assert "nothing to repair" in ready("repair").stdout
    assert "ann" in ready("audit", migration).output
    assert ready.json("repair") == {
        "done": False, "changes": [], "notes": [], "events": [], "rows": [], "checkpoints": [],
    }  # fmt: skip


def test_repair_names_the_events_that_have_no_place(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    event = stray(ready)
    file = ready.directory / "stranded.jsonl"
    document = ready.json("repair", "--yes", "--export", file)
    assert document["done"]
    # Its way back is half gone, too.
    assert [change["kind"] for change in document["changes"]] == ["fence", "way back"]
    [line] = [json.loads(each) for each in file.read_text().splitlines()]
    assert (line["event_id"], line["kept_in"], line["was_put_back"]) == (str(event), SHARED, False)
    assert document["events"] == [line]
    assert ready.sql("source", "select state from eventsource_fences")[0][0] == "moved"


def test_repair_puts_back_what_fits(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    event = stray(ready)
    said = ready("repair").output
    assert f"1 that only store '{SHARED}' has: 0 put back, 1 would fit" in said
    assert "1 put back" in ready("repair", "--yes", "--put-back").output
    found = ready.sql("target", "select tenant_id from events where event_id = $1", event)
    assert found[0][0] == ready.tenant


def test_rebind_and_an_abort_without_the_target(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    migration = ready.migration()["id"]
    refused = ready("rebind", migration, "--store", DEDICATED, exit_code=1).output
    assert "pause it first" in refused
    ready("pause", migration)
    assert "goes on with store" in ready("rebind", migration, "--store", DEDICATED).output
    ready("resume", migration)
    ready("pause", migration)
    refused = ready("abort", migration, "--without-target", exit_code=1).output
    assert "answers and has the fence" in refused
    ready.sql("target", "drop table eventsource_fences cascade")
    assert "rolled_back" in ready("abort", migration, "--without-target").output
    assert ready.sql("source", "select * from eventsource_fences") == []


def test_repair_names_checkpoints_above_what_a_store_has_handed_out(ready: CommandLine) -> None:
    """A reader of a store that has gone back gets nothing, and skips what comes below."""
    head = ready.sql("source", "select max(global_position) from events")[0][0]
    for name, store, position in (
        ("ahead", SHARED, head + 5),
        ("there", SHARED, head),
        ("elsewhere", "another-store", head + 5),
    ):
        ready.sql(
            "control",
            "insert into subscription_checkpoints (subscription_name, store_id, position)"
            " values ($1, $2, $3)",
            name, store, position,
        )  # fmt: skip
    said = ready("repair").stdout
    assert f"of subscription 'ahead' in store '{SHARED}' is at {head + 5}" in said
    assert "'there'" not in said
    assert "'elsewhere'" not in said
    [found] = ready.json("repair")["checkpoints"]
    assert (found["subscription_name"], found["position"], found["head"]) == (
        "ahead", head + 5, head,
    )  # fmt: skip
    for _ in range(5):
        ready.sql(
            "source",
            "insert into events (aggregate_id, tenant_id, version, event_id, aggregate_type,"
            " event_type, timestamp, payload) values ($1, $2, 1, $3, 'Note', 'noted', now(), '{}')",
            uuid4(), ready.tenant, uuid4(),
        )  # fmt: skip
    assert ready.json("repair")["checkpoints"] == []


@pytest.mark.parametrize("mistake", ["swapped", "renamed", "one of them is another's"])
def test_repair_refuses_stores_under_mistaken_ids(ready: CommandLine, mistake: str) -> None:
    """It would have said where each tenant lives in the words of this configuration alone: every
    process with the right one was then sent to the wrong store."""
    ready("move", ready.tenant, "--to", DEDICATED)
    right = ready.config.read_text()
    if mistake == "swapped":
        ready.write_config(**{SHARED: ready.target_dsn, DEDICATED: ready.source_dsn})
    elif mistake == "renamed":
        ready.config.write_text(right.replace(f"stores.{DEDICATED}", "stores.apart"))
    else:
        third = f'[stores.third]\ndsn = "{ready.target_dsn}"\n'
        ready.write_config(**{DEDICATED: ready.source_dsn})
        ready.config.write_text(f"{ready.config.read_text()}{third}")
    for options in ([], ["--yes"]):
        said = ready("repair", *options, exit_code=1).output
        assert "knows as" in said
        assert "Nothing was changed" in said
    assert ready.sql("control", "select store_id from tenant_routing")[0][0] == DEDICATED
    ready.config.write_text(right)
    assert "nothing to repair" in ready("repair").output


@pytest.mark.parametrize("mistake", ["swapped", "another table", "another database"])
def test_verify_refuses_stores_under_mistaken_ids(ready: CommandLine, mistake: str) -> None:
    """It compared them, and called every event of a move that was whole a missing one."""
    ready("move", ready.tenant, "--to", DEDICATED)
    right = ready.config.read_text()
    if mistake == "swapped":
        ready.write_config(**{SHARED: ready.target_dsn, DEDICATED: ready.source_dsn})
    elif mistake == "another table":
        ready.sql("target", "create table others (like events including all)")
        named = f'dsn = "{ready.target_dsn}"'
        assert named in right
        ready.config.write_text(right.replace(named, f'{named}\ntable = "others"'))
    else:
        ready.write_config(**{DEDICATED: ready.control_dsn})
        ready("init")
    for options in (
        [],
        ["--from", SHARED, "--to", DEDICATED],
        ["--from", DEDICATED, "--to", SHARED],
    ):
        said = ready("verify", ready.tenant, *options, exit_code=1).output
        assert f"store '{DEDICATED}' is" in said or f"store '{SHARED}' is" in said
        assert "Nothing was changed" in said
        assert "differ" not in said
    ready.config.write_text(right)
    assert "consistent" in ready("verify", ready.tenant).output


def test_verify_compares_what_a_move_that_was_given_up_left_elsewhere(ready: CommandLine) -> None:
    ready("start", ready.tenant, "--to", DEDICATED)
    ready("abort", "--tenant", ready.tenant)
    ready.write_config(**{DEDICATED: ready.control_dsn})
    ready("init")
    said = ready("verify", ready.tenant, exit_code=4).output
    assert f"'{SHARED}' and '{DEDICATED}' differ" in said


def test_repair_takes_one_store_under_two_ids(ready: CommandLine) -> None:
    ready("move", ready.tenant, "--to", DEDICATED)
    alias = f'[stores.alias]\ndsn = "{ready.target_dsn}"\n'
    ready.config.write_text(f"{ready.config.read_text()}{alias}")
    assert "knows as" not in ready("repair", exit_code=None).output


def test_repair_says_when_it_may_not_look_at_the_checkpoints(ready: CommandLine) -> None:
    """Once it said as much as where none of them is ahead: nothing."""
    role = f"watcher_{ready.tenant.hex[:8]}"
    ready.sql("control", f"create role {role} login password 'looks-only'")
    parts = urlsplit(ready.control_dsn)
    address = f"{role}:looks-only@{parts.hostname}:{parts.port}"
    ready.config.write_text(
        ready.config.read_text()
        + f'[subscriptions]\ndsn = "{parts._replace(netloc=address).geturl()}"\n'
    )
    said = ready("repair")
    assert "nothing to repair" in said.stdout
    assert "checkpoints were not looked at" in said.output
    assert ready.json("repair")["checkpoints"] is None
    ready.sql("control", f"grant select on subscription_checkpoints to {role}")
    assert "checkpoints were not looked at" not in ready("repair").output
    ready.sql("control", f"drop owned by {role}")
    ready.sql("control", f"drop role {role}")
