"""What `docs/howto/after-a-disaster.md` tells an operator to type."""

from __future__ import annotations

import re

from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs/howto/after-a-disaster.md"

_COMMAND = re.compile(r"`eventsource-migrate ([^`]+)`")


def rows() -> dict[str, list[str]]:
    """The commands of each row, without the program's name, by what its first column says."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == 3 and not cells[0].startswith(("---", "what")):
            found[cells[0]] = _COMMAND.findall(cells[2])
    return found
