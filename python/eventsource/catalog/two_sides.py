"""Two tables compared: what is carried from one to the other, and what keeps it from arriving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from eventsource.catalog import constraints, values
from eventsource.catalog.findings import Finding, warning
from eventsource.catalog.model import Column, Sequence, TableCatalog, Type
from eventsource.catalog.one_side import (
    MOVES,
    ROOM,
    firing,
    lengthened,
    of_the_source,
    of_the_target,
)
from eventsource.identifiers import qualified, quote_identifier

#: Filled by each side for itself; every pass depends on it.
TRANSACTION_ID = "transaction_id"

#: Every append gives these a value, so that it matters to nobody whether they have a default.
WRITTEN = frozenset(
    {
        *("event_id", "aggregate_id", "aggregate_type", "event_type", "tenant_id", "version"),
        *("timestamp", "actor_id", "payload", "metadata", "global_position"),
    }
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a move between two tables would do.

    Attributes:
        source: the source's table, as it was compared.
        findings: in the order in which they were looked for.
        carried: the columns that are, in the source's order.
        compared: these, and those that both sides generate.
        filled: columns that are not carried, with the reason in words.
        drawn: sequences at the target that carried columns draw from, with the source's own.
        fires: names of the triggers at the target that a carried row sets off.
    """

    source: TableCatalog
    findings: tuple[Finding, ...]
    carried: tuple[str, ...]
    compared: tuple[str, ...]
    filled: tuple[tuple[str, str], ...]
    drawn: tuple[tuple[Sequence, Sequence | None], ...]
    fires: tuple[str, ...]


def compare(
    source: TableCatalog, target: TableCatalog, *, fire: bool = False, block: bool = True
) -> Comparison:
    """Compare them.

    Args:
        fire: the target's triggers are meant to see the carried rows.
        block: positions for the tenant have still to be reserved at the target.
    """
    findings = [*of_the_source(source), *of_the_target(target, fire=fire)]
    carried: list[str] = []
    compared: list[str] = []
    filled: list[tuple[str, str]] = []
    for column in source.columns:
        other = target.column(column.name)
        if column.name == TRANSACTION_ID:
            filled.append((column.name, "each side's own"))
        elif values.is_stamp(column):
            filled.append((column.name, "a stamp of its cluster, filled by the target"))
            findings += _stamp(target, column, other, fire=fire)
        elif column.is_generated and other is not None and other.is_generated:
            filled.append((column.name, "generated on both sides"))
            compared.append(column.name)
            findings += generated_twice(target, column, other)
        else:
            carried.append(column.name)
            compared.append(column.name)
            findings += _carried(source, target, column, other)
    findings += _of_the_target_alone(source, target)
    findings += encodings(source, target)
    findings += constraints.of_the_target(source, target)
    findings += _sequence_ends(source, target, block=block)
    drawn = tuple(_drawn(source, target, carried))
    findings += _sequence_rights(drawn)
    return Comparison(
        source, tuple(findings), tuple(carried), tuple(compared), tuple(filled), drawn,
        tuple(each.name for each in firing(target)),
    )  # fmt: skip


def _stamp(
    target: TableCatalog, column: Column, other: Column | None, *, fire: bool
) -> Iterator[Finding]:
    if other is None:
        yield warning(
            "stamp", "source",
            f"column {column.name} counts in terms of the source's cluster and stays there; the"
            " target has no such column",
        )  # fmt: skip
        return
    by_trigger = fire and any(
        each.is_row and each.is_before and "insert" in each.events for each in firing(target)
    )
    if not (other.fills_itself or other.is_generated or by_trigger):
        default = column.default or ("pg_current_xact_id()" if column.type.name == "xid8" else "…")
        yield Finding(
            "stamp-without-default", "target",
            f"column {column.name} is {column.shown}, a stamp of the source's cluster that means"
            " nothing in another one, and the target does not fill it by itself",
            f"alter table {target.sql} alter column {quote_identifier(column.name)} set default"
            f" {default}",
        )  # fmt: skip


def generated_twice(target: TableCatalog, column: Column, other: Column) -> Iterator[Finding]:
    here, there = [(each.default, each.shown, each.type) for each in (column, other)]
    if here != there:
        name = quote_identifier(column.name)
        yield Finding(
            "generated-differently", "target",
            f"column {column.name} is generated as {column.shown} from {column.default} in the"
            f" source and as {other.shown} from {other.default} in the target",
            f"alter table {target.sql} drop column {name}, add column {name} {column.described}"
            f" generated always as ({column.default}) stored",
        )  # fmt: skip


def generated_at_target(target: TableCatalog, column: Column, other: Column) -> Iterator[Finding]:
    """A column that is carried has to take a value."""
    name = quote_identifier(column.name)
    if other.is_generated:
        yield Finding(
            "generated-at-target", "target",
            f"column {column.name} is an ordinary one in the source and generated in the target,"
            " which takes no value for it",
            f"alter table {target.sql} alter column {name} drop expression"
            if other.generated == "s"
            else f"alter table {target.sql} drop column {name}, add column {name}"
            f" {column.described}",
        )  # fmt: skip


def _carried(
    source: TableCatalog, target: TableCatalog, column: Column, other: Column | None
) -> Iterator[Finding]:
    name = quote_identifier(column.name)
    reason = values.why_not(column)
    if reason is not None:
        kind, why = reason
        yield Finding(
            kind, "source", f"column {column.name} of the source table {why}",
            f"give it a type of plain values on both sides, such as text; at the source: alter"
            f" table {source.sql} alter column {name} type text{'[]' * column.type.is_array} using"
            f" {name}::text{'[]' * column.type.is_array}",
        )  # fmt: skip
    if other is None:
        yield Finding(
            "missing-column", "target", f"the target table lacks the source's column {column.name}",
            f"alter table {target.sql} add column {name} {column.described}",
        )  # fmt: skip
        return
    yield from generated_at_target(target, column, other)
    if (column.type, column.modifier, column.collation) != (
        other.type, other.modifier, other.collation
    ):  # fmt: skip
        if column.described == other.described:
            yield _other_definition(column, other)
            return
        yield Finding(
            "different-type", "target",
            f"column {column.name} is {column.described} in the source and {other.described} in"
            " the target",
            f"while the target is empty, change it there: alter table {target.sql} alter column"
            f" {name} type {column.described} using {name}::text::{column.shown}",
            column=column.name,
        )  # fmt: skip
        return
    yield from _stricter(source, target, column, other)


def _other_definition(column: Column, other: Column) -> Finding:
    """The types have one name on both sides, and are made of other parts."""
    here, there = values.first_difference(column.type, other.type)
    parts = [", ".join(values.described(each)) for each in (here, there)]
    lengths = " with another length or precision" if parts[0] == parts[1] else ""
    return Finding(
        "different-type", "target",
        f"column {column.name} is {column.shown} on both sides, and {here.name} is ({parts[0]}) in"
        f" the source and ({parts[1]}){lengths} in the target",
        f"make type {here.name} the same in the target",
        column=column.name,
    )  # fmt: skip


def _stricter(
    source: TableCatalog, target: TableCatalog, column: Column, other: Column
) -> Iterator[Finding]:
    """What the target refuses although the type is the same."""
    name = quote_identifier(column.name)
    # All rows of a tenant have a tenant.
    if other.not_null and not column.not_null and column.name != "tenant_id":
        yield Finding(
            "not-null", "target",
            f"column {column.name} may be null in the source and is NOT NULL in the target",
            f"alter table {target.sql} alter column {name} drop not null",
        )  # fmt: skip
    yield from stricter_type(column, other)
    if other.not_null and column.fills_itself and not other.fills_itself:
        if column.name not in WRITTEN:
            yield Finding(
                "no-default", "target",
                f"column {column.name} is NOT NULL without a default in the target, so that appends"
                " which leave it out fail after the move",
                f"alter table {target.sql} alter column {name} set default"
                f" {column.default or '…'}",
            )  # fmt: skip
    elif column.default != other.default and not (column.sequences or other.sequences):
        yield warning(
            "different-default", "target",
            f"the default of column {column.name} is {column.default or 'none'} in the source and"
            f" {other.default or 'none'} in the target",
        )  # fmt: skip


def stricter_type(column: Column, other: Column) -> Iterator[Finding]:
    """Values that the target's type refuses although it is the same."""
    for type_, labels in values.missing_labels(column.type, other.type):
        yield Finding(
            "enum-labels", "target",
            f"type {type_.name} of column {column.name} lacks {', '.join(map(repr, labels))} in the"
            " target",
            "; ".join(f"alter type {_sql(type_)} add value '{_literal(each)}'" for each in labels),
        )  # fmt: skip
    for domain, check in values.stricter_domains(column.type, other.type):
        yield Finding(
            "domain-check", "target",
            f"domain {domain.name} of column {column.name} asks for {check} in the target only",
            f"drop that constraint: alter domain {_sql(domain)} drop …",
        )  # fmt: skip


def _of_the_target_alone(source: TableCatalog, target: TableCatalog) -> Iterator[Finding]:
    for column in target.columns:
        added = source.column(column.name) is None and column.name != TRANSACTION_ID
        if added and column.not_null and not column.fills_itself:
            name = quote_identifier(column.name)
            yield Finding(
                    "not-null", "target",
                    f"the target's column {column.name} is NOT NULL without a default and the"
                    " source has no such column",
                    f"give it a default: alter table {target.sql} alter column {name} set default …"
                    f", or alter column {name} drop not null",
                )  # fmt: skip


def encodings(source: TableCatalog, target: TableCatalog) -> Iterator[Finding]:
    for side, table in (("source", source), ("target", target)):
        if table.encoding == "SQL_ASCII":
            yield Finding(
                "encoding", side,
                f"the {side}'s database has the encoding SQL_ASCII, which is none: what its bytes"
                " mean is not known, and not every byte is read",
                "move between databases of an encoding, such as UTF8",
            )  # fmt: skip
    if target.encoding not in (source.encoding, "UTF8", "SQL_ASCII"):
        yield warning(
            "encoding", "target",
            f"the source's database has the encoding {source.encoding} and the target's"
            f" {target.encoding}: an event with a character that this one lacks stops the copy",
        )  # fmt: skip


def _drawn(
    source: TableCatalog, target: TableCatalog, carried: list[str]
) -> Iterator[tuple[Sequence, Sequence | None]]:
    for name in carried:
        here, there = source.column(name), target.column(name)
        if there is not None and here is not None and name != "global_position":
            for sequence in there.sequences:
                yield sequence, next(iter(here.sequences), None)


def _sequence_ends(source: TableCatalog, target: TableCatalog, *, block: bool) -> Iterator[Finding]:
    """Sequences of the target that end before what a move reserves, and what comes after it.

    A block that is reserved lies below what the target's sequence has drawn.
    """
    for column in target.columns:
        other = source.column(column.name)
        if other is None or values.is_stamp(other):
            continue
        for sequence in column.sequences:
            used = max(sequence.last or 0, 0)
            if block:
                used += max([each.last or 0 for each in other.sequences] or [0])
            wanted = MOVES * ROOM if block else ROOM
            if column.name == "global_position" and sequence.cache != 1 and block:
                yield Finding(
                    "sequence-cache", "target",
                    f"sessions keep {sequence.cache} positions of the target's sequence"
                    f" {sequence.name} each, which makes every feed there skip events; let all"
                    " writers connect again after",
                    f"alter sequence {sequence.name} cache 1",
                )  # fmt: skip
            if column.name == "global_position" and sequence.most - used < wanted:
                yield Finding(
                    "sequence-end", "target",
                    f"sequence {sequence.name} of the target's column {column.name} ends at"
                    f" {sequence.most}: too few numbers are left for a move and what follows it",
                    lengthened(sequence),
                )  # fmt: skip
            elif column.name != "global_position" and (
                sequence.increment < 1 or sequence.cycle or not other.sequences
            ):
                yield Finding(
                    "other-sequence", "target",
                    f"sequence {sequence.name} of the target's column {column.name} cannot be set"
                    " to where the source's values end: it does not only count upwards, or the"
                    " source's column draws from none",
                    f"alter table {target.sql} alter column {quote_identifier(column.name)} drop"
                    f" {'identity' if column.identity else 'default'}",
                )  # fmt: skip


def _sequence_rights(drawn: Iterable[tuple[Sequence, Sequence | None]]) -> Iterator[Finding]:
    """What a role may not read seems never used, and its numbers would be given again."""
    for there, here in drawn:
        if here is not None and not here.may_read:
            yield Finding(
                "sequence-rights", "source",
                f"role {here.role!r} may not read sequence {here.name} of the source, so that its"
                " numbers would be given again at the target",
                f"grant select on sequence {here.name} to {quote_identifier(here.role)}",
            )  # fmt: skip
        if here is not None and not (there.may_read and there.may_set):
            yield Finding(
                "sequence-rights", "target",
                f"role {there.role!r} may not read and set sequence {there.name} of the target, so"
                " that it cannot go on where the source's ends",
                f"grant select, update on sequence {there.name} to {quote_identifier(there.role)}",
            )  # fmt: skip


def _sql(type_: Type) -> str:
    if type_.home.startswith("extension "):
        return quote_identifier(type_.name)
    return qualified(type_.home, type_.name)


def _literal(text: str) -> str:
    return text.replace("'", "''")
