"""The digest at the end of a report: over every byte before it."""

from __future__ import annotations

import hashlib
import re

from eventsource.errors import EventSourceError

#: Where the digest stands, by the kind of file; what comes before it is digested.
_ENDS = {
    "json": ('"sha256": "', '"}\n'),
    "html": ("<!-- sha256 ", " -->\n"),
    "text": ("sha256    ", "\n"),
}


class ReportChangedError(EventSourceError):
    """A file is not a report as it was made: some of it was changed, or it is none at all."""


def sealed(text: str, kind: str) -> str:
    """The text with its digest at the end. Of JSON the closing brace is left out in ``text``."""
    before, after = _ENDS[kind]
    head = text + before
    return f"{head}{_digest(head)}{after}"


def digest_of(made: bytes) -> str:
    """The digest that a report ends with, if the rest of it is what was digested.

    Raises:
        ReportChangedError: it is not.
    """
    # What is no text any more is not what was made, and is compared all the same.
    text = made.decode("utf-8", errors="surrogateescape")
    for before, after in _ENDS.values():
        found = re.search(rf"{re.escape(before)}([0-9a-f]{{64}}){re.escape(after)}\Z", text)
        if found is None:
            continue
        if _digest(text[: found.start(1)]) == found[1]:
            return found[1]
        raise ReportChangedError(
            "the report was changed since it was made: its digest is that of another text; make it"
            " again with `eventsource-migrate report`"
        )
    raise ReportChangedError(
        "this is no report of `eventsource-migrate report`, or its end was changed: there is no"
        " digest at its end"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()
