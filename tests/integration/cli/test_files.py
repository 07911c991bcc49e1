"""Files that a command is to write, and letters that a terminal does not have.

A file that could not be written was called a database that cannot be reached, `repair` noticed it
only after it had changed everything, and a name beyond the locale's letters was a traceback.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import DEDICATED, CommandLine

COMMANDS: dict[str, tuple[str, ...]] = {
    "--html": ("report", "MIGRATION"),
    "--export": ("repair", "--yes"),
    "--output": ("fleet", "report", "WAVE"),
    "--state": ("verify", "TENANT"),
}
PLACES = {
    "a directory that is not there": "nowhere/file",
    "a directory": ".",
    "a file below a file": "eventsource.toml/file",
}


@pytest.fixture
def moved(ready: CommandLine) -> CommandLine:
    ready("move", ready.tenant, "--to", DEDICATED)
    ready("fleet", "plan", "WAVE", "--largest", 1, "--to", DEDICATED)
    return ready


def call(cli: CommandLine, option: str, *more: object, **options: Any) -> str:
    names = {"MIGRATION": cli.migration()["id"], "TENANT": cli.tenant}
    words = [names.get(word, word) for word in COMMANDS[option]]
    output: str = cli(*words, option, *more, **options).output
    return output


@pytest.mark.parametrize("option", COMMANDS)
def test_a_file_that_cannot_be_is_refused_before_anything_is_done(
    moved: CommandLine, option: str
) -> None:
    before = moved.sql("control", "select count(*) from migration_audit_log")
    # The control database has forgotten where the tenant lives: something to repair.
    moved.sql("control", "delete from tenant_routing")
    for place in PLACES.values():
        said = call(moved, option, place, exit_code=2)
        assert f"{option}: {place} cannot be written: " in said
        assert "database" not in said
    assert moved.sql("control", "select count(*) from migration_audit_log") == before
    assert moved.sql("control", "select count(*) from tenant_routing")[0][0] == 0


@pytest.mark.parametrize("option", ["--html", "--export", "--output"])
def test_a_full_disk_is_said_with_the_name_of_the_file(moved: CommandLine, option: str) -> None:
    if option == "--export":
        # An event that is only where the tenant does not live: something to write.
        moved.sql("source", "alter table events disable trigger all")
        moved.sql(
            "source",
            "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
            " version, \"timestamp\", payload) values (gen_random_uuid(), gen_random_uuid(), 'X',"
            " 'X', $1, 1, now(), '{}')",
            moved.tenant,
        )
        moved.sql("source", "alter table events enable trigger all")
        moved.sql("source", "update eventsource_fences set state = 'open', generation = 0")
    reported = "select from migration_audit_log where event_type like 'reported%'"
    said = call(moved, option, "/dev/full", exit_code=1)
    assert "cannot write /dev/full: No space left on device" in said
    assert "dsn" not in said
    assert moved.sql("control", reported) == []


def test_a_file_that_is_there_stays_until_it_is_written(moved: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("the last one")
    moved("report", "0000", "--html", file, exit_code=2)
    assert file.read_text() == "the last one"
    fresh = tmp_path / "fresh.html"
    moved("report", "0000", "--html", fresh, exit_code=2)
    assert not fresh.exists()


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_a_locale_without_the_letters_of_a_name_shows_them_as_signs(
    ready: CommandLine, locale: dict[str, str]
) -> None:
    name = "Zoe 😀"
    asked = ready.popen("--operator", name, "start", ready.tenant, "--to", DEDICATED, **locale)
    assert asked.wait(30) == 0
    [known] = ready.json("list")
    assert known["started_by"] == name, "it is stored as it was typed"
    listed = ready.popen("list", "--by", name, **locale)
    said, _ = listed.communicate(timeout=30)
    assert listed.returncode == 0, said
    assert r"\U0001f600" in said
    as_json = ready.popen("--json", "list", **locale)
    document, _ = as_json.communicate(timeout=30)
    assert json.loads(document)[0]["started_by"] == name
    audited = ready.popen("audit", "--tenant", ready.tenant, **locale)
    assert audited.wait(30) == 0


def test_a_report_has_its_bytes_in_every_locale(moved: CommandLine, tmp_path: Path) -> None:
    moved("--operator", "Zoe 😀", "report", "--tenant", moved.tenant)
    for kind in (["--json"], []):
        for locale in LOCALES:
            made = moved.popen(*kind, "report", "--tenant", moved.tenant, **locale)
            # What is no text in this test's own locale is kept as bytes.
            assert made.stdout is not None
            (tmp_path / "made").write_bytes(made.stdout.buffer.read())  # type: ignore[attr-defined]
            assert made.wait(30) == 0
            assert "unchanged" in moved("report", "--check", tmp_path / "made").output
