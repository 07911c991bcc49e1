"""Which values can be carried from one database to another, by what their type is made of."""

from __future__ import annotations

import re
from typing import Final

from eventsource.catalog.model import Column, Type

#: Counted by one cluster and meaningless in every other: filled by the target, never carried.
STAMPS: Final = frozenset({"xid8", "xid", "cid", "tid", "pg_lsn", "pg_snapshot", "txid_snapshot"})

#: A default that reads such a counter makes a stamp of a column of any type.
_STAMPING = re.compile(
    r"\b(pg_current_xact_id|txid_current|pg_current_snapshot|pg_current_wal|pg_last_wal|"
    r"pg_backend_pid)\w*\("
)


def is_stamp(column: Column) -> bool:
    """Whether the value says when the row was written in terms of its own cluster only."""
    if column.is_generated:
        return False
    return _is_stamp_type(innermost(column.type)) or bool(_STAMPING.search(column.default or ""))


def innermost(type_: Type) -> Type:
    """What a domain is over in the end; of other types themselves."""
    while type_.kind == "d":
        type_ = type_.parts[0][1]
    return type_


def why_not(column: Column) -> tuple[str, str] | None:
    """The name and the reason of what keeps a column's values from being carried, or None."""
    type_ = column.type
    for each in type_.within():
        if _names_an_object(each):
            return (
                "object-ids",
                f"holds {each.name}, a number that means an object of this database only",
            )
        if each is not type_ and _is_stamp_type(each):
            return ("stamp-inside", f"holds {each.name}, a counter of this cluster only")
    for each in type_.within():
        # Composites and arrays are sent by the server itself, if what they hold is.
        if not each.has_binary_form:
            return ("no-binary-form", f"is or holds {each.name}, which the server cannot send")
    return None


def first_difference(here: Type, there: Type) -> tuple[Type, Type]:
    """Of two types that differ, the innermost parts whose own definitions do."""
    for (_, one, _), (_, other, _) in zip(here.parts, there.parts, strict=False):
        if one != other and (one.home, one.name) == (other.home, other.name):
            return first_difference(one, other)
    return here, there


def described(type_: Type) -> list[str]:
    """What a type is made of, in words."""
    return [f"{name} {part.name}" for name, part, _ in type_.parts] or [type_.kind]


def missing_labels(source: Type, target: Type) -> list[tuple[Type, list[str]]]:
    """Labels of enums within that the target does not know, for types that are equal otherwise."""
    return [
        (there, lacking)
        for here, there in zip(source.within(), target.within(), strict=True)
        if (lacking := [label for label in here.labels if label not in there.labels])
    ]


def stricter_domains(source: Type, target: Type) -> list[tuple[Type, str]]:
    """Domains within whose constraints the target alone has, for types that are equal otherwise."""
    found = []
    for here, there in zip(source.within(), target.within(), strict=True):
        found += [(there, check) for check in there.checks if check not in here.checks]
        if there.not_null and not here.not_null:
            found.append((there, "NOT NULL"))
    return found


def _is_stamp_type(type_: Type) -> bool:
    return type_.is_of_the_server and type_.name in STAMPS


def _names_an_object(type_: Type) -> bool:
    return type_.is_of_the_server and (
        type_.name in ("oid", "oidvector") or re.fullmatch(r"reg[a-z]+", type_.name) is not None
    )
