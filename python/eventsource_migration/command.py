"""The console command ``eventsource-migrate``, where no other distribution replaces it."""

from __future__ import annotations

import sys
from importlib import import_module

from eventsource_migration.neighbours import OURS, PACKAGE, explain, installed_beside


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
        from importlib import metadata

        others = [
            name for name in metadata.packages_distributions().get(PACKAGE, ()) if name != OURS
        ]
    print(f"error: {explain(dict.fromkeys(others))}", file=sys.stderr)
    sys.exit(2)


def _is_of_the_package(error: ImportError) -> bool:
    return error.name is not None and error.name.split(".")[0] == PACKAGE
