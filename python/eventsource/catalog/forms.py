"""How the binary form of a column's values is made up, as far as it names types by number.

The data plane sets those numbers to 0 before it compares a row: every database gives its own to the
types of an application. ``rust/core/src/row/form.rs`` describes the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventsource.catalog.model import Column, Type

#: Of values without such a number.
PLAIN: Final = "."

_SIGNS: Final = {"array": "[", "r": "<", "m": "{"}


def of_type(type_: Type) -> str:
    """The form of a type's values."""
    parts = [part for _, part, _ in type_.parts]
    forms = "".join(map(of_type, parts))
    if type_.kind == "d":
        return forms
    names_its_parts = type_.is_array or type_.is_composite
    varying = names_its_parts and not all(part.has_fixed_oid for part in parts)
    if not varying and not forms.strip(PLAIN):
        return PLAIN
    return f"({forms})" if type_.is_composite else _SIGNS[type_.kind] + forms


def of_columns(columns: Iterable[Column | None]) -> tuple[str, ...]:
    """The form of each; empty when all are plain, for which nothing has to be done."""
    forms = tuple(PLAIN if each is None else of_type(each.type) for each in columns)
    return forms if set(forms) - {PLAIN} else ()
