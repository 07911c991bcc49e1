"""Which migration, which tenant, and is it meant: what a slip of the keyboard may not do."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from tests.support.command_line import DEDICATED, CommandLine
from tests.support.terminal import Terminal

#: A verb for each way to name a migration, with what it takes besides.
VERBS = ("status", "lag", "audit", "pause", "resume", "abort")


def test_a_migration_is_named_by_the_first_characters_of_its_id(ready: CommandLine) -> None:
    id_ = str(ready.json("start", ready.tenant, "--to", DEDICATED)["id"])
    assert ready.json("status", id_[:4])["id"] == id_
    assert ready.json("status", id_[:8].upper())["id"] == id_
    assert ready.json("status", id_[:13])["id"] == id_
    assert ready.json("throttle", id_[:8], "100")["id"] == id_
    for verb in VERBS:
        ready(verb, id_[:8])
    assert ready.migration()["state"] == "rolled_back"


def test_a_beginning_that_two_ids_have_in_common_is_refused(ready: CommandLine) -> None:
    ready("start", ready.tenant, "--to", DEDICATED)
    ready("abort", "--tenant", ready.tenant)
    ready("start", ready.tenant, "--to", DEDICATED)
    first, second = UUID(int=0xABCD << 112 | 1), UUID(int=0xABCD << 112 | 2)
    ready.sql("control", "alter table migration_audit_log disable trigger all")
    for new in (first, second):
        ready.sql(
            "control",
            "insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state)"
            " values ($1, $2, 'shared', 'dedicated', 'rolled_back')",
            new, str(uuid4()),
        )  # fmt: skip
    refused = ready("abort", "abcd", exit_code=2)
    assert str(first) in refused.output
    assert str(second) in refused.output
    assert ready.json("status", str(first)[:36])["id"] == str(first)
    assert ready.migration()["state"] != "rolled_back"


@pytest.mark.parametrize("text", ["not-an-id", "abc", "12345678x", "'", "%", "____"])
def test_what_cannot_begin_an_id_is_a_usage_error(cli: CommandLine, text: str) -> None:
    cli("init")
    assert cli("status", text, exit_code=2).output
    assert cli.json("status", text, exit_code=2)["error"]["code"] == "usage"


def test_an_unknown_beginning_and_no_name_at_all_say_where_ids_are(cli: CommandLine) -> None:
    cli("init")
    for arguments in (["abort", "abcd1234"], ["abort"], ["abort", "--tenant", str(uuid4())]):
        assert "`eventsource-migrate list`" in cli(*arguments, exit_code=2).output


def test_a_tenant_in_the_place_of_a_migration_is_recognised(ready: CommandLine) -> None:
    id_ = ready.json("start", ready.tenant, "--to", DEDICATED)["id"]
    assert f"--tenant {ready.tenant}" in ready("status", ready.tenant, exit_code=2).output
    assert ready.json("status", "--tenant", ready.tenant)["id"] == id_
    both = ready("status", id_, "--tenant", ready.tenant, exit_code=2)
    assert "leave one of them out" in both.output


@pytest.mark.parametrize("verb", ["run", "start"])
def test_a_tenant_that_the_source_does_not_know_is_refused(ready: CommandLine, verb: str) -> None:
    """A mistyped tenant moved nothing, said "done", and left a route."""
    mistyped = uuid4()
    refused = ready(verb, mistyped, "--to", DEDICATED, exit_code=3)
    assert "holds no event of tenant" in refused.output
    assert "--empty" in refused.output
    assert ready.sql("control", "select * from tenant_routing") == []
    assert ready.sql("control", "select * from tenant_migrations") == []
    assert ready.sql("source", "select * from eventsource_fences") == []


def test_a_plan_warns_of_a_tenant_that_the_source_does_not_know(ready: CommandLine) -> None:
    plan = ready.json("plan", uuid4(), "--to", DEDICATED)
    assert plan["events"] == 0
    assert any("holds no event" in warning for warning in plan["warnings"])


def test_a_plan_to_where_the_tenant_lives_says_what_a_run_says(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    plan = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert plan == ready("run", ready.tenant, "--to", DEDICATED).output
    assert "already" in plan


def test_a_new_tenant_begins_at_the_target_when_that_is_meant(ready: CommandLine) -> None:
    new = uuid4()
    assert ready.json("start", new, "--to", DEDICATED, "--empty")["tenant_id"] == str(new)
    assert ready.json("run", new, "--to", DEDICATED, "--yes")["outcome"] == "migrated"


def test_a_subscription_that_nobody_knows_gets_no_checkpoint(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    id_ = ready.migration()["id"]
    refused = ready("subscriptions", "migrate", id_, "Typo", exit_code=2)
    assert "'Typo'" in refused.output
    assert "--from-start" in refused.output
    assert ready.sql("control", "select * from subscription_checkpoints") == []
    ready("subscriptions", "migrate", id_, "New", "--from-start")
    made = ready.sql("control", "select subscription_name from subscription_checkpoints")
    assert [row[0] for row in made] == ["New"]


@pytest.mark.parametrize("verb", ["cutover", "abort"])
@pytest.mark.parametrize("answer", ["y", "", "no"])
def test_what_cannot_be_taken_back_is_asked_at_a_terminal(
    ready: CommandLine, verb: str, answer: str
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    id_ = str(ready.migration()["id"])
    terminal = Terminal(ready, verb, id_[:8])
    terminal.read_until("[y/N]")
    question = " ".join(terminal.output.split())
    assert ("nobody is in the way" if verb == "cutover" else "Remove 400 events") in question
    assert ready.migration()["state"] == "dual_write"
    terminal.type(f"{answer}\n")
    assert terminal.end() == 0, terminal.output
    done = {"cutover": "migrated", "abort": "rolled_back"}[verb]
    assert ready.migration()["state"] == (done if answer == "y" else "dual_write")


def test_yes_asks_nothing_at_a_terminal(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    terminal = Terminal(ready, "cutover", "--tenant", ready.tenant, "--yes")
    assert terminal.end() == 0, terminal.output
    assert "[y/N]" not in terminal.output
    assert ready.migration()["state"] == "migrated"


def test_a_cutover_that_was_made_is_not_made_to_look_new(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    again = ready("cutover", ready.migration()["id"]).output
    assert "already since" in again
    assert "fence was held" not in again
