"""The console command ``eventsource-migrate``, where no other distribution replaces it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

from eventsource_migration.neighbours import OURS, PACKAGE, explain, installed_beside

#: What maturin compiles; no other distribution has it.
EXTENSION = f"{PACKAGE}._core"


def main() -> None:
    """The console command ``eventsource-migrate``; exits with 2 where the package is not ours."""
    others = installed_beside()
    if not others:
        try:
            if getattr(import_module(PACKAGE), "__distribution__", None) == OURS:
                from eventsource.cli import main as command

                command()
                return
        except ImportError as error:
            if not _is_of_the_package(error):
                raise
            if error.name == EXTENSION and not isinstance(error, ModuleNotFoundError):
                _say(
                    "the compiled extension module is of another version than the package: install"
                    " the wheel again, or `make build` in a clone"
                )
        from importlib import metadata

        others = [
            name for name in metadata.packages_distributions().get(PACKAGE, ()) if name != OURS
        ]
    _say(explain(dict.fromkeys(others)))


def _say(why: str) -> NoReturn:
    """Exit with the reason, at a terminal broken between words."""
    text = f"error: {why}"
    if sys.stderr is not None and sys.stderr.isatty():
        # Loaded here: nobody else waits for them.
        import shutil
        import textwrap

        text = textwrap.fill(text, shutil.get_terminal_size().columns, break_long_words=False)
    print(text, file=sys.stderr)
    sys.exit(2)


def _is_of_the_package(error: ImportError) -> bool:
    return error.name is not None and error.name.split(".")[0] == PACKAGE
