"""What `eventsource.toml` and the flags may say, and what is said about what they may not."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from eventsource.cli.config import ConfigError, load
from eventsource.migration import VerificationLevel
from tests.support.command_line import CommandLine

WHOLE = """
default_store = "shared"
[control]
dsn = "postgresql://me:${CONTROL_PASSWORD}@db/control"
[stores.shared]
dsn = "postgresql://db/app"
table = "events_shared"
schema = "app"
[stores."dedicated.a"]
dsn = "${A_DSN}"
[subscriptions]
dsn = "postgresql://db/read"
[defaults]
batch_size = 77
verification_level = "full"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTROL_PASSWORD", "hush")
    monkeypatch.setenv("A_DSN", "postgresql://a/app")
    path = tmp_path / "some.toml"
    path.write_text(WHOLE)
    return path


def test_a_whole_configuration_is_read_with_its_variables(file: Path) -> None:
    settings = load(file)
    assert settings.control_dsn == "postgresql://me:hush@db/control"
    assert settings.subscriptions_dsn == "postgresql://db/read"
    assert (settings.stores["shared"].table, settings.stores["shared"].schema) == (
        "events_shared",
        "app",
    )
    assert settings.stores["dedicated.a"].dsn == "postgresql://a/app"
    assert settings.stores["dedicated.a"].table == "events"
    assert settings.migration.batch_size == 77
    assert settings.migration.verification_level is VerificationLevel.FULL


def test_no_password_is_in_the_repr_of_a_configuration(file: Path) -> None:
    assert "hush" not in repr(load(file))
    assert "postgresql" not in repr(load(file))


def test_set_replaces_entries_and_keeps_the_others(file: Path) -> None:
    settings = load(
        file,
        [
            "defaults.batch_size=5",
            "defaults.mirror_writes=false",
            "stores.dedicated.a.table=events_a",
            "default_store=dedicated.a",
        ],
    )
    assert settings.migration.batch_size == 5
    assert not settings.migration.mirror_writes
    assert settings.migration.verification_level is VerificationLevel.FULL
    assert settings.stores["dedicated.a"].table == "events_a"
    assert settings.default_store == "dedicated.a"


def test_flags_alone_are_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(
        None,
        ["control.dsn=postgresql://c/c", "stores.one.dsn=postgresql://s/s", "default_store=one"],
    )
    assert settings.subscriptions_dsn == "postgresql://c/c"
    assert settings.origin == "the command line"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("control.dsn=${NOT_SET_ANYWHERE}", "control: dsn: the environment variable NOT_SET_ANY"),
        ("control.dsn=", "[control]: dsn must be a non-empty text"),
        ("control.dns=x", "[control]: unknown entry 'dns'; known are dsn"),
        (
            "stores.b.tabel=x",
            "[stores.b]: unknown entry 'tabel'; known are application_role, dsn, group, layout,"
            " schema, table",
        ),
        ("stores.b.table=x", "[stores.b]: dsn is missing"),
        ("stores.shared.table=" + "x" * 64, "[stores.shared]: table:"),
        ("default_store=nowhere", "default_store is 'nowhere', which is none of dedicated.a, sha"),
        ("defaults.batch_size=0", "[defaults]: batch_size must be between 1 and 1,000,000, not 0"),
        ("defaults.batch_size=1.5", "batch_size must be a whole number, not 1.5"),
        ("defaults.mirror_writes=maybe", "mirror_writes must be true or false, not 'maybe'"),
        (
            "defaults.verification_level=deep",
            "verification_level must be count, hash or full, not 'deep'",
        ),
        ("defaults.max_events_per_second=fast", "max_events_per_second must be a number"),
        ("defaults.speed=1", "[defaults]: unknown entry 'speed'; known are batch_size,"),
        ("stores=1", "[stores] must be a table"),
        ("store.x.dsn=1", "unknown entry 'store'; known are control, default_store,"),
        ("no value", "--set no value: write KEY=VALUE"),
        ("default_store.x=1", "--set default_store.x: default_store is not a table"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(file: Path, change: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(file, [change])
    assert told in str(refused.value)


def test_a_missing_configuration_says_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no eventsource\.toml here.*EVENTSOURCE_CONFIG"):
        load(None)
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read: No such file"):
        load(tmp_path / "gone.toml")


def test_text_that_is_not_toml_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[control\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML: .*line 1"):
        load(path)


def test_a_bad_configuration_is_exit_code_2_and_one_line(cli: CommandLine) -> None:
    result = cli("--set", "defaults.batch_size=0", "list", exit_code=2)
    assert result.output.count("\n") == 1
    assert result.output.startswith("error: ")
    answer = cli.json("--set", "defaults.batch_size=0", "list", exit_code=2)
    assert answer["error"]["code"] == "config"
    assert answer["error"]["exit_code"] == 2


def test_shared_options_may_stand_behind_the_verb(cli: CommandLine) -> None:
    cli("init")
    assert cli("list", "--json").stdout.strip() == "[]"
    cli("list", "--set=defaults.batch_size=0", exit_code=2)


def test_the_file_of_the_working_directory_and_of_the_environment_are_found(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from eventsource.cli import app

    cli("init")
    assert CliRunner().invoke(app, ["list"]).exit_code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert CliRunner().invoke(app, ["list"]).exit_code == 2
    monkeypatch.setenv("EVENTSOURCE_CONFIG", str(cli.config))
    assert CliRunner().invoke(app, ["list"]).exit_code == 0


def test_unknown_verbs_and_options_and_ids_that_are_none_are_usage_errors(cli: CommandLine) -> None:
    cli("fly", exit_code=2)
    cli("list", "--fast", exit_code=2)
    cli("status", "not-an-id", exit_code=2)
    cli("run", uuid4(), exit_code=2)
