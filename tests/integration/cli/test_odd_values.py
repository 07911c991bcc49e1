"""Odd values in every option and argument of every verb: an exit code and a line, no traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import typer

from eventsource.cli import app
from tests.support.command_line import DEDICATED, CommandLine

#: What people and scripts put where another thing is expected.
VALUES = (
    "", "0", "-1", "7", "200", "0.0000001", "1e308", "99999999999999999999", "nan", "inf", "1h",
    "7d", "é", "a\0b", "'; drop table x", "x" * 300, "2026-13-45", "9999-12-31T23:59:59Z",
    "0001-01-01",
)  # fmt: skip

#: They run until they are stopped, or begin servers of their own.
ENDLESS = {("demo",), ("work",), ("fleet", "work"), ("fleet", "page")}


def verbs() -> Iterator[tuple[tuple[str, ...], Any]]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        if commands := getattr(command, "commands", None):
            waiting += [((*path, name), each) for name, each in commands.items()]
        elif path not in ENDLESS:
            yield path, command


def calls(
    command: Any, tenant: str, migration: str, values: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Arguments of the verb that are right but for one."""
    options = [each for each in command.params if each.param_type_name == "option"]
    right: list[str] = []
    for each in command.params:
        if each.param_type_name == "argument" and (each.required or each.nargs == 1):
            right.append({"tenant": tenant, "migration": migration}.get(each.name, "x"))
    named = [part for each in options if each.required for part in (each.opts[0], DEDICATED)]
    named += ["--yes" for each in options if "--yes" in each.opts]
    for value in values:
        for each in options:
            if not each.is_flag:
                yield *right, *named, each.opts[0], value
        for at in range(len(right) or 1):
            yield *right[:at], value, *right[at + 1 :], *named


@pytest.mark.parametrize(
    ("values", "is_moved"),
    [
        (("", "200"), True),
        pytest.param(VALUES, True, marks=pytest.mark.thorough),
        pytest.param(VALUES, False, marks=pytest.mark.thorough),
    ],
    ids=["two", "all", "all-moving"],
)
@pytest.mark.timeout(600)
def test_an_odd_value_ends_in_an_exit_code_and_a_line(
    ready: CommandLine, values: Sequence[str], is_moved: bool
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, *(["--yes"] if is_moved else []))
    migration = str(ready.migration()["id"])
    made = 0
    for path, command in verbs():
        for arguments in calls(command, str(ready.tenant), migration, values):
            # An exception that is no exit would be raised here.
            ready(*path, *arguments, exit_code=None)
            made += 1
    assert made > 50 * len(values)
    assert ready.count("source") + ready.count("target") >= 400


@pytest.mark.parametrize("verb", ["run", "cutover", "cutover --rehearse", "return"])
def test_a_pause_that_is_too_long_is_refused_before_anything_is_asked_for(
    ready: CommandLine, verb: str
) -> None:
    if verb != "run":
        yes = ["--yes"] if verb == "return" else []
        ready("run", ready.tenant, "--to", DEDICATED, *yes)
    about = (ready.tenant, "--to", DEDICATED) if verb == "run" else ("--tenant", ready.tenant)
    before = _journal(ready)
    refused = ready(*verb.split(), *about, "--yes", "--max-pause", "200", exit_code=2).output
    assert "--max-pause: the longest pause of a cutover is between 0.05 and 5 s" in refused
    assert _journal(ready) == before


def _journal(ready: CommandLine) -> list[Any]:
    return ready.sql(
        "control",
        "select event_type, (select count(*) from tenant_migrations) from migration_audit_log"
        " where event_type not like 'router%'",
    )
