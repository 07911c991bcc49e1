"""What a command loads before it does anything: who asks for little does not wait for much."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from eventsource import migration
from eventsource.cli.application import VERBS, app

#: What takes long to load, and what for.
MODELS = {"pydantic", "eventsource.events"}
DATABASES = {"asyncpg", "asyncio", "eventsource.migration", "eventsource._core"}
SCREENS = {"rich.console", "rich.progress", "rich.live"}
SELDOM = {
    "opentelemetry", "email", "http.client", "importlib.metadata", "statistics",
    "eventsource.migration.driver.driver", "eventsource.migration.recovery.repair",
}  # fmt: skip

COMMAND = """
import sys
sys.argv[1:] = {words!r}
from eventsource_migration.command import main
try:
    main()
except SystemExit:
    pass
"""

#: Each verb but those that are about events themselves, or about several machines.
EVERY_VERB = f"""
import importlib
for place in {[place for name, (place, _) in VERBS.items() if name not in ("demo", "fleet")]!r}:
    importlib.import_module(place.partition(":")[0])
"""


def loaded(code: str) -> set[str]:
    """The modules of a fresh interpreter that has run ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint('loaded', *sys.modules)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("loaded ")]
    return set(line.split())


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        # Its version is written in what pip has installed.
        (["--version"], MODELS | DATABASES | SCREENS | SELDOM - {"importlib.metadata", "email"}),
        (["--help"], MODELS | DATABASES | SCREENS | SELDOM),
        ([], MODELS | DATABASES | SCREENS | SELDOM),
    ],
)  # fmt: skip
def test_who_asks_for_a_word_waits_for_no_library(words: list[str], left_out: set[str]) -> None:
    assert loaded(COMMAND.format(words=words)) & left_out == set()


def test_verbs_move_rows_without_classes_of_events() -> None:
    found = loaded("import sys" + EVERY_VERB)
    assert {"asyncpg", "eventsource.cli.invocation"} <= found
    assert found & (MODELS | SCREENS) == set()


def test_a_mistake_in_the_configuration_is_said_before_anything_else_is_loaded() -> None:
    code = COMMAND.format(words=["--config", "/nowhere.toml", "--json", "status"])
    unneeded = {"eventsource.migration.coordinator", "eventsource.stores.postgresql"}
    # What typer itself loads, such as pydantic for options, is not ours to leave out.
    theirs = {"pydantic", "email", "importlib.metadata"}
    assert loaded(code) & (MODELS | SCREENS | SELDOM | unneeded) - theirs == set()


def test_what_a_first_move_needs_is_loaded_beside_the_tasks_of_the_application() -> None:
    """It takes a tenth of a second, in which nobody else could append."""
    code = """
import asyncio, sys, threading
from eventsource.migration import MigrationCoordinator
from eventsource.migration.driver import loading
class Loads:
    def find_spec(self, name, *_):
        if name in ("eventsource.migration.driver.driver", "opentelemetry"):
            here = threading.current_thread() is threading.main_thread()
            print(name, "in the loop" if here else "beside")
sys.meta_path.insert(0, Loads())
print(asyncio.run(loading.driver()).__name__)
print(asyncio.run(loading.driver()).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "eventsource.migration.driver.driver beside", "opentelemetry beside", "Driver", "Driver",
    ], done.stderr  # fmt: skip


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    for name in migration.__all__:
        assert getattr(migration, name).__name__ == name
    assert set(migration.__all__) <= set(dir(migration))
    assert set(migration._HOMES) <= set(migration.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = migration.no_such_name


@pytest.mark.parametrize("name", VERBS)
def test_the_list_says_of_a_verb_what_its_own_help_says_first(name: str) -> None:
    root: Any = typer.main.get_command(app)
    _, sentence = VERBS[name]
    assert root.commands[name].get_short_help_str(1000) == sentence
