"""A command that a message names runs when it is copied, whatever tenants and files are called."""

from __future__ import annotations

import json
import shlex

import pytest

from eventsource.cli.fitting import folded
from eventsource.commands import command, with_config

ODD = [
    "acme", "acme & sons", "o'brien", "$HOME", "-acme", "--yes", "a;b", "#x", "~", '"q"', "a  b",
    "'", "a, b. c", "emoji 😀", "*",
]  # fmt: skip


def as_the_shell_has_it(text: str) -> list[str]:
    return shlex.split(text.replace("\\\n", " "), comments=True)


@pytest.mark.parametrize("name", ODD)
def test_a_word_arrives_as_it_is_and_never_as_an_option(name: str) -> None:
    words = as_the_shell_has_it(command("run", name, options=("--to", "a store", "--yes")))
    assert words[:2] == ["eventsource-migrate", "run"]
    if name.startswith("-"):
        assert words[2:] == ["--to", "a store", "--yes", "--", name]
    else:
        assert words[2:] == [name, "--to", "a store", "--yes"]


@pytest.mark.parametrize("width", [30, 40, 60, 80])
@pytest.mark.parametrize("name", ODD)
def test_a_narrow_terminal_breaks_no_word_in_quotes(name: str, width: int) -> None:
    said = command("run", name, options=("--to", "a store that has a long name", "--yes"))
    shown = folded(f"go on     {said}", width)
    assert as_the_shell_has_it(shown)[2:] == as_the_shell_has_it(said)


@pytest.mark.parametrize("path", ["es.toml", "/etc/es/es.toml", "my dir/it's.toml", '"x".toml'])
def test_commands_name_the_configuration_that_was_named(path: str) -> None:
    said = "start `eventsource-migrate work`, or eventsource-migrate abort 0ebf7686"
    shown = with_config(said, path)
    first = shown.split("`")[1]
    assert as_the_shell_has_it(first) == ["eventsource-migrate", "--config", path, "work"]
    last = shown[shown.rindex("eventsource-migrate") :]
    assert as_the_shell_has_it(last)[1:] == ["--config", path, "abort", "0ebf7686"]
    document = json.loads(with_config(json.dumps({"command": said}), path, as_json=True))
    assert document == {"command": shown}


def test_what_is_no_command_stays_as_it_is() -> None:
    here = "see /opt/eventsource-migrate work"
    for text in (here, "eventsource-migrate --help", "my-eventsource-migrate x"):
        assert with_config(text, "x.toml") == text
