"""Values of rows as they are declared, whatever codecs an application has set on its pool.

One that has UUIDs as text, or moments as text, gets our rows so as well: a tenant would not be
found under its id, and what is compared with it would be missed without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

__all__ = ["as_declared", "moment_of", "uuid_of"]

_ENDLESS = (datetime.min, datetime.max)


def uuid_of(value: Any) -> Any:
    """A UUID; None is none."""
    return value if value is None or isinstance(value, UUID) else UUID(str(value))


def moment_of(value: Any) -> Any:
    """A moment, always with its time zone; None is none.

    The driver takes the first and the last moment that Python has for ``-infinity`` and
    ``infinity``, and gives those back without a time zone.

    Raises:
        ValueError: the application's codec makes of it what cannot be read.
    """
    if value is None:
        return value
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value in _ENDLESS else value
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(
            f"the codec of this pool for timestamptz gives {type(value).__name__}, which is no"
            " moment here: let it give a datetime, or give the store a pool without that codec"
        ) from None


def as_declared(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields, each UUID and moment as the field is declared."""
    found = dict(values)
    for name, convert in _conversions(kind):  # type: ignore[arg-type]
        if name in found:
            found[name] = convert(found[name])
    return found


@cache
def _conversions(kind: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    # Annotations are texts in every module of ours.
    convert = {"UUID": uuid_of, "datetime": moment_of}
    declared = [(each.name, str(each.type).removesuffix(" | None")) for each in fields(kind)]
    return [(name, convert[text]) for name, text in declared if text in convert]
