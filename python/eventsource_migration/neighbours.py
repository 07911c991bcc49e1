"""What else has installed a package ``eventsource``.

Other distributions do too: eventsource-py, an event sourcing library, and eventsource, a client of
server-sent events. The one that is installed later replaces files of the one before, and pip says
nothing. So this is looked at from a package that is ours alone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable

OURS = "eventsource-migration"
PACKAGE = "eventsource"

#: Distributions of others that install a package of this name.
OTHERS = ("eventsource-py", "eventsource")

#: What the files that describe one of them are called, by pip and by the tools before it.
_DESCRIPTION = re.compile(
    rf"(?:{'|'.join(name.replace('-', '[-_.]') for name in OTHERS)})(?:-.*)?\.(?:dist|egg)-info",
    re.IGNORECASE,
)

_REMEDY = (
    "give eventsource-migration an environment of its own (pipx install eventsource-migration). An"
    " application that uses another library under this name needs nothing of eventsource-migration"
    " installed. To mend this environment: pip uninstall both, then install one"
)


def installed_beside() -> list[str]:
    """Distributions of others that have put their package in the place of ours."""
    if not _may_be_installed():
        return []
    # Loaded here: it takes longer than this look, and each command would wait for it.
    from importlib import metadata

    found = []
    for name in OTHERS:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def explain(others: Iterable[str]) -> str:
    """What is wrong with this environment, and what to do."""
    names = " and ".join(others) or "another distribution"
    return (
        f"{OURS} and {names} both install the Python package {PACKAGE!r}, and each replaces files"
        f" of the other; {_REMEDY}"
    )


def _may_be_installed() -> bool:
    """Whether anything that looks like one of them is where Python looks for packages."""
    for place in sys.path:
        try:
            if any(_DESCRIPTION.fullmatch(name) for name in os.listdir(place or os.curdir)):
                return True
        except NotADirectoryError:
            # An archive: what is in it only the importer says.
            return True
        except OSError:
            continue
    return False
