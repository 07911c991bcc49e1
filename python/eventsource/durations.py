"""Lengths of time as people write them."""

from __future__ import annotations

import re

#: How many seconds a unit of time has.
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds_of(name: str, value: object) -> float:
    """A number of seconds, also of a text such as "7d", "12h" or "0"; other values stay."""
    if not isinstance(value, str):
        return value  # type: ignore[return-value]
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]*)", value.strip())
    if found is None or found[2] not in ("", *UNITS):
        raise ValueError(
            f"{name} must be a time such as 7d or 12h ({', '.join(UNITS)}), not {value!r}"
        )
    return float(found[1]) * UNITS.get(found[2], 1)
