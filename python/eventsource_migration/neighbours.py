"""What else has installed a package ``eventsource``.

Other distributions do too: eventsource-py, an event sourcing library, and eventsource, a client of
server-sent events. The one that is installed later replaces files of the one before, and pip says
nothing. So this is looked at from a package that is ours alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

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


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
