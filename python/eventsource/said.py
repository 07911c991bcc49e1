"""What a process that tries again and again has logged already: it says a thing once."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Mapping

#: For how long something has been going on: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min.
#: Since when a driver waits: those of several processes began at other times, and take turns.
_AGE = re.compile(r"\bfor \d[\d.,]* (?:s|min|h)\b(?: \d\d (?:s|min)\b)?| \(since \d[^()]*\)")


def without_ages(text: str) -> str:
    """The text without what grows while nothing else changes: it is not a line for each second."""
    return _AGE.sub("", text)


class Said:
    """Warns of a thing when it begins and when it changes, not at each attempt.

    Args:
        log: where to.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: dict[Hashable, str] = {}

    def warn(self, about: Hashable, text: str, extra: Mapping[str, object] | None = None) -> None:
        """Log it, unless it is what was logged last about that."""
        said = without_ages(text)
        if self._last.get(about) != said:
            self._last[about] = said
            self._log.warning("%s", text, extra=extra)

    def over(self, about: Hashable) -> None:
        """An attempt succeeded: if it fails again, that is news."""
        self._last.pop(about, None)
