"""What a target asks of its rows: keys, checks, and what has to be unique."""

from __future__ import annotations

from collections.abc import Iterator

from eventsource.catalog.findings import Finding
from eventsource.catalog.model import Constraint, TableCatalog
from eventsource.identifiers import quote_identifier

#: What is unique in every event table of ours, whatever a source of another origin has instead.
_KEYS = ({"event_id"}, {"global_position"}, {"aggregate_id", "aggregate_type", "version"})

#: Constraints that a row meets which is there already: unique, primary key, exclusion.
_MET = ("u", "p", "x")


def of_the_target(source: TableCatalog, target: TableCatalog) -> Iterator[Finding]:
    """Constraints and unique indexes of the target that stop rows of the source, or a pass."""
    for each in target.constraints:
        if each.type == "f" and each.enforced and each.columns != ("tenant_id",):
            yield Finding(
                "foreign-key", "target",
                f"the target's foreign key {each.name} needs rows of {each.referenced}, which no"
                " move carries or which come later",
                f"alter table {target.sql} drop constraint {quote_identifier(each.name)}",
            )  # fmt: skip
        if each.type in _MET and each.is_deferrable:
            yield Finding(
                "deferrable-constraint", "target",
                f"the target's constraint {each.name} ({each.definition}) may be checked late, so"
                " that a pass cannot leave out the events that are there already",
                f"alter table {target.sql} drop constraint {quote_identifier(each.name)}, add"
                f" constraint {quote_identifier(each.name)} {each.checked_at_once}",
            )  # fmt: skip
    yield from stricter(source, target)
    for unique in target.uniques:
        if set(unique.columns) not in _KEYS and not any(map(unique.follows_from, source.uniques)):
            drop = f"drop index {unique.name}"
            if unique.constraint is not None:
                name = quote_identifier(unique.constraint)
                drop = f"alter table {target.sql} drop constraint {name}"
            yield Finding(
                "unique-constraint", "target",
                f"the target's unique index {unique.name} ({unique.definition}) is none of the"
                " source's, which may hold what it refuses: make it there, too, or drop it",
                drop,
            )  # fmt: skip


def stricter(source: TableCatalog, target: TableCatalog) -> Iterator[Finding]:
    """What the target refuses of a row and the source may hold."""
    here = {(each.type, each.checked_at_once) for each in source.constraints}
    for each in target.constraints:
        # One that is not validated refuses new rows as another one does.
        definition = each.checked_at_once.removesuffix(" NOT VALID")
        if each.type in ("c", "x") and each.enforced and (each.type, definition) not in here:
            kind = "check-constraint" if each.type == "c" else "exclusion-constraint"
            yield Finding(
                kind, "target",
                f"the target's constraint {each.name} ({each.definition}) is none of the source's,"
                " which may hold what it refuses",
                f"alter table {target.sql} drop constraint {quote_identifier(each.name)}",
            )  # fmt: skip


def tenant_keys(target: TableCatalog) -> list[Constraint]:
    """Foreign keys of the target that ask for a row of the tenant: that one may be there."""
    return [
        each
        for each in target.constraints
        if each.type == "f" and each.enforced and each.columns == ("tenant_id",)
    ]
