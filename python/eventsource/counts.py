"""A number with its noun, as people say it: 1 event, 2,000 events."""

from __future__ import annotations


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """Thousands are separated; ``plural`` where it is not the noun with an s."""
    shown = f"{number:,.0f}"
    return f"{shown} {noun if shown == '1' else plural or f'{noun}s'}"
