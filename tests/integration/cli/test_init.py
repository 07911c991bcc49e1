"""`init --check` and `init --print-sql`: what would be made, without making it."""

from __future__ import annotations

import subprocess

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
