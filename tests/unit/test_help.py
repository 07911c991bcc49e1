"""The help of every verb, groups included: it says the same things in the same way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eventsource.cli import app
from eventsource.cli.examples import EXAMPLES
from eventsource.cli.group import shared_first

ROOT = typer.main.get_command(app)


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, each in getattr(command, "commands", {}).items():
        yield " ".join((*path, name)), each
        yield from walk(each, (*path, name))


ALL = dict(walk(ROOT))
GROUPS = {path for path, each in ALL.items() if hasattr(each, "commands")}
VERBS = sorted(set(ALL) - GROUPS)


def help_of(path: str, option: str = "--help") -> str:
    words = [*path.split(), option]
    shown = CliRunner().invoke(app, words, prog_name="eventsource-migrate")
    assert shown.exit_code == 0, shown.output
    return str(shown.output)


def test_there_are_groups_and_verbs_in_them() -> None:
    assert {"fleet", "way-back", "subscriptions"} <= GROUPS
    assert len(VERBS) > 30


@pytest.mark.parametrize("path", sorted(ALL))
def test_a_help_is_plain_and_names_the_shared_options(path: str) -> None:
    shown = help_of(path)
    assert shown == help_of(path, "-h")
    assert shown.startswith(f"Usage: eventsource-migrate {path} ")
    assert "may be given too: --json," in shown
    # The application has it, for all of them.
    assert "--install-completion" not in shown
    assert "--show-completion" not in shown
    assert not re.search(r"[\u2500-\u257f]", shown), "frames"
    (usage, *_) = shown.split("\n\n")
    for wrong in ("[[", "{", "}"):
        assert wrong not in usage
    for line in shown.splitlines():
        assert len(line) <= 80 or line.startswith("    eventsource-migrate ")
        assert not line.endswith("...") or line.startswith("Usage:"), line


@pytest.mark.parametrize("path", VERBS)
def test_a_verb_has_examples_that_parse(path: str) -> None:
    shown = help_of(path)
    assert EXAMPLES.get(path), "a verb without an example: put one into cli/examples.py"
    for line in EXAMPLES[path]:
        assert f"\n    eventsource-migrate {line}\n" in shown
        words = shared_first(shlex.split(line))
        assert words[: len(path.split())] == path.split()
        parsed = ALL[path].make_context(path, words[len(path.split()) :])
        assert set(parsed.params) <= {each.name for each in ALL[path].params}


def test_no_example_is_of_a_verb_that_is_gone() -> None:
    assert set(EXAMPLES) == set(VERBS)


def test_a_verb_that_names_a_migration_takes_its_tenant_too() -> None:
    for path in VERBS:
        names = {each.name: each for each in ALL[path].params}
        if "migration" in names:
            assert "tenant" in names, path
            assert not names["migration"].required, path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("throttle 0ebf7686 100", {"migration": "0ebf7686", "rate": "100", "tenant": None}),
        ("throttle --tenant acme 100", {"rate": "100", "tenant": "acme"}),
        ("throttle 100 --tenant=acme", {"rate": "100", "tenant": "acme"}),
        ("subscriptions plan 0ebf A B", {"migration": "0ebf", "names": ["A", "B"]}),
        ("subscriptions plan --tenant acme A B", {"tenant": "acme", "names": ["A", "B"]}),
        ("status --tenant acme", {"migration": None, "tenant": "acme"}),
    ],
)
def test_a_tenant_stands_in_the_place_of_the_migration(
    line: str, expected: dict[str, object]
) -> None:
    words = line.split()
    path = next(each for each in VERBS if words[: len(each.split())] == each.split())
    parsed = ALL[path].make_context(path, words[len(path.split()) :]).params
    found = {name: list(v) if isinstance(v, (list, tuple)) else v for name, v in parsed.items()}
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("line", ["throttle 100", "throttle 0ebf7686 --tenant acme 100"])
def test_what_is_missing_or_too_much_is_a_usage_error(line: str) -> None:
    assert CliRunner().invoke(app, line.split()).exit_code == 2


def test_a_rate_that_cannot_be_is_refused_in_plain_numbers() -> None:
    refused = CliRunner().invoke(app, ["throttle", "0ebf7686", "0"])
    assert refused.exit_code == 2
    said = " ".join(refused.output.split())
    assert "RATE must be between 1 and 1,000,000,000, not 0; none lifts the limit" in said
