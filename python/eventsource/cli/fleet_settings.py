"""``[fleet]`` of a configuration: how much moves at the same time, and what disks may hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Bytes of a unit, as makers of disks and clouds count them.
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

_SIZE = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})")


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What all workers of a fleet keep to.

    Attributes:
        at_once: tenants that move at the same time to the stores of each group; a store without a
            group is one of its own.
        limits: to those of some groups, otherwise.
        max_disk: what may lie on the disk of some groups (bytes).
    """

    at_once: int = 4
    limits: Mapping[str, int] = field(default_factory=dict)
    max_disk: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], groups: Collection[str]) -> FleetSettings:
        """As it is written, of these groups.

        Raises:
            ValueError: an entry is unknown or wrong; the message names it.
        """
        _refuse_unknown(entry, ("at_once", "limits", "max_disk"))
        limits, disks = (_of_groups(entry, name, groups) for name in ("limits", "max_disk"))
        for name, number in {"at_once": entry.get("at_once", 1), **limits}.items():
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 1000:
                raise ValueError(f"{name} must be a whole number from 1 to 1000, not {number!r}")
        sizes = {name: _size(f"max_disk: {name}", size) for name, size in disks.items()}
        return cls(entry.get("at_once", cls().at_once), limits, sizes)


def _of_groups(entry: Mapping[str, Any], name: str, groups: Collection[str]) -> dict[str, Any]:
    found = entry.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be a table with names of groups")
    _refuse_unknown(found, groups, f"{name}: ")
    return found


def _size(name: str, text: object) -> int:
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f'{name} must be a size such as "500 GB" or "1.8 TiB", not {text!r}')
    return int(float(found[1]) * UNITS[found[2]])


def _refuse_unknown(entry: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
    for name in entry:
        if name not in known:
            raise ValueError(f"{where}unknown entry {name!r}; known are {', '.join(sorted(known))}")
