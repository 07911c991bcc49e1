"""The command, and the look at what else was installed, outside of the package ``eventsource``.

Other distributions install a package of that name too: eventsource-py, an event sourcing library,
and eventsource, a client of server-sent events. The one that is installed later replaces files of
the one before, and pip says nothing. So the first look is taken from a package that is ours alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module, metadata
from types import ModuleType

OURS = "eventsource-migration"
PACKAGE = "eventsource"

#: Distributions of others that install a package of this name.
OTHERS = ("eventsource-py", "eventsource")

_REMEDY = (
    "give eventsource-migration an environment of its own (pipx install eventsource-migration). An"
    " application that uses another library under this name needs nothing of eventsource-migration"
    " installed. To mend this environment: pip uninstall both, then install one"
)


def installed_beside() -> list[str]:
    """Distributions of others that have put their package in the place of ours."""
    return [name for name in OTHERS if _is_installed(name)]


def explain(others: Iterable[str]) -> str:
    """What is wrong with this environment, and what to do."""
    names = " and ".join(others) or "another distribution"
    return (
        f"{OURS} and {names} both install the Python package {PACKAGE!r}, and each replaces files"
        f" of the other; {_REMEDY}"
    )


def main() -> None:
    """The console command ``eventsource-migrate``; exits with 2 where the package is not ours."""
    others = installed_beside()
    if not others:
        try:
            if is_ours(import_module(PACKAGE)):
                from eventsource.cli import main as command

                command()
                return
        except ImportError as error:
            if not _is_of_the_package(error):
                raise
        others = [
            name for name in metadata.packages_distributions().get(PACKAGE, ()) if name != OURS
        ]
    print(f"error: {explain(dict.fromkeys(others))}", file=sys.stderr)
    sys.exit(2)


def is_ours(package: ModuleType) -> bool:
    """Whether an imported package ``eventsource`` is the one of this distribution."""
    return getattr(package, "__distribution__", None) == OURS


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _is_of_the_package(error: ImportError) -> bool:
    return error.name is not None and error.name.split(".")[0] == PACKAGE
