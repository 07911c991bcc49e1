"""`init --check` and `init --print-sql`: what would be made, without making it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from eventsource.testing import Cluster
from tests.support.command_line import DEDICATED, SHARED, CommandLine

_TABLES = "select count(*) from pg_class where relnamespace = 'public'::regnamespace"


def objects(cli: CommandLine) -> list[int]:
    return [cli.sql(side, _TABLES)[0][0] for side in ("source", "target", "control")]


def test_a_check_of_empty_databases_names_what_is_missing_and_makes_nothing(
    cli: CommandLine,
) -> None:
    checked = cli.json("init", "--check", exit_code=1)
    assert not checked["is_complete"]
    assert all(part["pending"] for part in checked["parts"])
    assert [step["command"] for step in checked["next"]] == ["eventsource-migrate init"]
    assert "to run: create table" in cli("init", "--check", exit_code=1).output.lower()
    assert objects(cli) == [0, 0, 0]


def test_a_check_says_from_which_version_to_which(cli: CommandLine) -> None:
    now = cli("--version").output.strip()
    checked = cli("init", "--check", exit_code=1).output
    assert f"from nothing to {now}" in checked
    cli("init")
    assert cli.json("init", "--check")["version_before"] == now
    assert f"from {now}" not in cli("init", "--check").output
    cli.sql("control", "comment on table tenant_migrations is 'eventsource-migration 0.0.7'")
    assert f"from 0.0.7 to {now}" in cli("init", "--check").output
    cli("init")
    assert cli.json("init", "--check")["version_before"] == now
    cli.sql("control", "comment on table tenant_migrations is 'mine'")
    cli("init")
    assert "one that was not written down" in cli("init", "--check").output


def test_a_check_after_init_finds_nothing(ready: CommandLine) -> None:
    checked = ready.json("init", "--check")
    assert checked["is_complete"]
    assert [part["pending"] for part in checked["parts"]] == [[], [], [], []]
    assert "complete" in ready("init", "--check").output


def test_init_may_be_run_again_where_databases_quote_all_identifiers(cli: CommandLine) -> None:
    for side in ("source", "target", "control"):
        [[name]] = cli.sql(side, "select current_database()")
        cli.sql(side, f'alter database "{name}" set quote_all_identifiers = on')
    cli("init")
    cli("init")
    assert cli.json("init", "--check")["is_complete"]
    assert "create" not in cli("init", "--print-sql").output
    cli.sql("source", "alter table events alter actor_id type varchar(7)")
    cli("init")
    cli.sql("source", "alter table events alter actor_id type integer using 1")
    refused = cli("init", exit_code=1).output
    assert "column actor_id is integer, not text" in refused
    assert "column event_id" not in refused


@pytest.mark.parametrize(
    ("side", "damage", "part", "named"),
    [
        ("control", "alter table tenant_migrations drop column copy_rate", 0, "copy_rate"),
        ("control", "drop index idx_audit_log_migration", 0, "idx_audit_log_migration"),
        ("source", "drop trigger eventsource_announce on events", 1, "eventsource_announce"),
        ("target", "drop function eventsource_arriving(text)", 2, "eventsource_arriving"),
        (
            "target",
            "alter table events alter global_position set generated always",
            2,
            "by default",
        ),
        ("control", "drop table subscription_checkpoints", 3, "subscription_checkpoints"),
    ],
)
def test_a_check_names_what_got_lost_and_init_mends_just_that(
    ready: CommandLine, side: str, damage: str, part: int, named: str
) -> None:
    ready.sql(side, damage)
    parts = ready.json("init", "--check", exit_code=1)["parts"]
    assert [index for index, each in enumerate(parts) if each["pending"]] == [part]
    assert any(named in statement for statement in parts[part]["pending"])
    ready("init")
    ready("init", "--check")


def test_a_check_begins_with_what_would_be_run(ready: CommandLine) -> None:
    """It showed the comment before it, cut in the middle of a word."""
    ready.sql("source", "alter table events drop column transaction_id")
    said = ready("init", "--check", exit_code=1).output
    assert 'to run: alter table "public"."events" add column' in said
    assert "--" not in said


def test_the_sql_makes_all_that_init_makes(cli: CommandLine, source_cluster: Cluster) -> None:
    """For those who keep the SQL of their databases in a history of their own."""
    parts = cli.json("init", "--print-sql")["parts"]
    dsns = [cli.control_dsn, cli.source_dsn, cli.target_dsn, cli.control_dsn]
    assert objects(cli) == [0, 0, 0]
    for part, dsn in zip(parts, dsns, strict=True):
        script = "".join(f"{statement};\n" for statement in part["pending"])
        subprocess.run(
            [source_cluster.program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-1", dsn],
            input=script, text=True, check=True, capture_output=True,
        )  # fmt: skip
    assert cli.json("init", "--check")["is_complete"]
    before = objects(cli)
    cli("init")
    assert objects(cli) == before
    cli.seed(40)
    cli("run", cli.tenant, "--to", DEDICATED, "--yes")
    assert cli.count("target") == 40


def test_the_printed_sql_is_a_script_with_nothing_else(cli: CommandLine) -> None:
    shown = cli("init", "--print-sql").stdout
    for line in shown.splitlines():
        assert not line.startswith(("control ", "store ", "warning"))
    assert f"-- store {SHARED}, for eventsource-migration" in shown
    cli("init", "--check", "--print-sql", exit_code=2)


_ROLE = "init_stranger"


@pytest.fixture
def strangers(ready: CommandLine) -> Iterator[dict[str, str]]:
    """DSNs of a role that owns nothing of what is there, and has no right to it."""
    sides = {
        "control": ready.control_dsn, SHARED: ready.source_dsn, DEDICATED: ready.target_dsn,
    }  # fmt: skip
    for side in ("source", "target", "control"):
        with contextlib.suppress(asyncpg.DuplicateObjectError):
            ready.sql(side, f"create role {_ROLE} login password 'stranger'")
    changed = {}
    for name, dsn in sides.items():
        parts = urlsplit(dsn)
        where = f"{_ROLE}:stranger@{parts.hostname}:{parts.port}"
        changed[name] = parts._replace(netloc=where).geturl()
    yield changed
    for side in ("source", "target", "control"):
        ready.sql(side, f"drop owned by {_ROLE}")


@pytest.mark.parametrize(
    ("of", "side", "given", "named"),
    [
        ("control", "control", None, "grant select, insert, update, delete on tenant_migrations"),
        (
            "control",
            "control",
            "select, insert, update",
            "lacks DELETE on tenant_migrations in the control database",
        ),
        (
            "control",
            "control",
            "select",
            "grant insert, update on subscription_checkpoints to init_stranger",
        ),
        (SHARED, "source", None, "grant postgres to init_stranger"),
        (SHARED, "source", "select, insert", "does not own the store table"),
        (DEDICATED, "target", None, "lacks SELECT, INSERT, UPDATE, DELETE on"),
    ],
)
def test_a_role_that_may_not_use_what_is_there_is_refused_with_the_grant(
    ready: CommandLine, strangers: dict[str, str], of: str, side: str, given: str | None, named: str
) -> None:
    """Both said that all was ready, and `list` was then denied."""
    ready.write_config(**{of: strangers[of]})
    if given is not None:
        ready.sql(side, f"grant {given} on all tables in schema public to {_ROLE}")
    checked = ready("init", "--check", exit_code=1).output
    assert named in " ".join(checked.split())
    refused = ready("init", exit_code=3).output
    assert named in refused
    # Two databases may lack the same: where a grant belongs is said with it.
    assert of == "control" or f"store {of}: " in refused
    assert "ready" not in refused
    parts = ready.json("init", "--check", exit_code=1)
    assert not parts["is_complete"]
    assert any(named in lack for part in parts["parts"] for lack in part["lacks"])
    assert parts["next"] == []


def test_stores_that_a_role_may_not_use_are_not_taken_for_an_earlier_version(
    ready: CommandLine, strangers: dict[str, str]
) -> None:
    for statement in ("drop schema public cascade", "create schema public"):
        ready.sql("control", statement)
    ready.write_config(**{SHARED: strangers[SHARED], DEDICATED: strangers[DEDICATED]})
    assert "from nothing to" in ready("init", "--check", exit_code=1).output


def test_the_grants_that_init_names_are_enough_for_it(
    ready: CommandLine, strangers: dict[str, str]
) -> None:
    ready.write_config(control=strangers["control"])
    for part in ready.json("init", "--check", exit_code=1)["parts"]:
        for lack in part["lacks"]:
            ready.sql("control", lack.split(": ", 1)[1].split(", or connect")[0])
    ready("init", "--check")
    ready("init")
    ready("list")
