"""What a look at a catalog finds: each with a name of its own, a side, and the way out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that refuses a move, or that somebody should know before it.

    Attributes:
        kind: its name, the same in every release: what a program compares.
        side: ``source``, ``target`` or ``both``.
        text: what is wrong, as a clause.
        remedy: what mends it, None where nothing does.
        refuses: it is a problem; otherwise a warning.
        column: the column that it is about, where it is about one whose type differs.
    """

    kind: str
    side: str
    text: str
    remedy: str | None = None
    refuses: bool = True
    column: str | None = None

    def __str__(self) -> str:
        return self.text if self.remedy is None else f"{self.text}; {self.remedy}"


def warning(kind: str, side: str, text: str, remedy: str | None = None) -> Finding:
    """A finding that does not refuse."""
    return Finding(kind, side, text, remedy, refuses=False)
