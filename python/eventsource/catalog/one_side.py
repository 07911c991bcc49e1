"""What one table alone shows: whether the guard would see every row, and every row be carried."""

from __future__ import annotations

from collections.abc import Iterator

from eventsource.catalog.findings import Finding, warning
from eventsource.catalog.model import GUARD, Sequence, TableCatalog, Trigger
from eventsource.identifiers import quote_identifier

#: What the guard, the copy and the proof look a row up by.
KEYS = ("global_position", "event_id", "tenant_id", "aggregate_id", "aggregate_type", "version")

#: Positions that a move reserves, and how many moves a sequence must have room for: an attempt that
#: is aborted keeps its block. One of type integer has room for two, so it is refused.
ROOM, MOVES = 1_000_000_000, 4

_ON_INSERT, _ON_DELETE = "3", "4"


def unguardable(table: TableCatalog, side: str) -> Iterator[Finding]:
    """What would let a row past the guard: a store refuses these tables too."""
    yield from _kin(table, side)
    for name in KEYS:
        column = table.column(name)
        if column is not None and column.is_generated:
            yield Finding(
                "generated-key", side,
                f"column {name} of the {side} table is generated, so that neither the guard nor a"
                " copy can give it its value",
                f"alter table {table.sql} alter column {quote_identifier(name)} drop expression"
                if column.generated == "s" else "make it an ordinary column",
            )  # fmt: skip
    for trigger in late_triggers(table):
        yield Finding(
            "late-trigger", side,
            f"trigger {trigger.name!r} of the {side} table runs after the guard"
            f" ({GUARD}write) and may change the row that the guard has let pass",
            f"alter trigger {quote_identifier(trigger.name)} on {table.sql} rename to"
            f" {quote_identifier(_earlier(trigger.name))}",
        )  # fmt: skip
    for trigger in table.triggers:
        if _diverts(trigger):
            yield Finding(
                "diverting-trigger", side,
                f"trigger {trigger.name!r} of the {side} table returns NULL and writes elsewhere:"
                " such a row is stored where no guard is",
                f"name the table that holds the rows, or drop trigger"
                f" {quote_identifier(trigger.name)} on {table.sql}",
            )  # fmt: skip
    for rule in table.rules:
        if rule.instead and rule.event != "1" and rule.enabled != "D":
            yield Finding(
                "rule", side,
                f"rule {rule.name!r} of the {side} table turns statements into others, past every"
                " trigger",
                f"drop rule {quote_identifier(rule.name)} on {table.sql}",
            )  # fmt: skip


def _kin(table: TableCatalog, side: str) -> Iterator[Finding]:
    if table.children:
        yield Finding(
            "inheritance", side,
            f"the {side} table {table.sql} has children ({', '.join(table.children)}): their rows"
            " are read with it, but no trigger of it fires for them",
            "; ".join(f"alter table {child} no inherit {table.sql}" for child in table.children),
        )  # fmt: skip
    if table.parents and not table.partition:
        yield Finding(
            "inheritance", side,
            f"the {side} table {table.sql} inherits from {', '.join(table.parents)}, through which"
            " its rows are read and changed too",
            "; ".join(f"alter table {table.sql} no inherit {each}" for each in table.parents),
        )  # fmt: skip


def late_triggers(table: TableCatalog) -> list[Trigger]:
    """Those that see a row after the guard's has let it pass, and may still change it."""
    return [
        trigger
        for trigger in table.triggers
        if trigger.is_row
        and trigger.is_before
        and {"insert", "update"} & set(trigger.events)
        and trigger.enabled != "D"
        and not trigger.is_ours
        and trigger.runs_after_the_guard
    ]


def _earlier(name: str) -> str:
    """A name that sorts before the guard's, short enough to be one."""
    return "a_" + name.encode()[:61].decode(errors="ignore")


def _diverts(trigger: Trigger) -> bool:
    return (
        trigger.is_row and trigger.is_before and "insert" in trigger.events
        and trigger.enabled != "D" and not trigger.is_ours
        and trigger.returns_null and trigger.writes_elsewhere
    )  # fmt: skip


def lengthened(sequence: Sequence) -> str | None:
    """What makes it end later; None where no sequence does."""
    if sequence.most == 2**63 - 1:
        return None
    return f"alter sequence {sequence.name} as bigint no maxvalue"


def of_the_source(table: TableCatalog) -> Iterator[Finding]:
    """What only matters where the tenant leaves."""
    yield from unguardable(table, "source")
    for trigger in table.triggers:
        if (
            trigger.is_row and trigger.is_before and "insert" in trigger.events
            and trigger.enabled != "D" and not trigger.is_ours and trigger.returns_null
            and not _diverts(trigger)
        ):  # fmt: skip
            yield warning(
                "swallowing-trigger", "source",
                f"trigger {trigger.name!r} of the source table may swallow a row: what it does not"
                " store is not moved either",
            )  # fmt: skip
    for rule in table.rules:
        if not rule.instead and rule.event == _ON_INSERT and rule.enabled != "D":
            yield warning(
                "rule", "source",
                f"rule {rule.name!r} of the source table does more than the statement says; the"
                " target has no such rule unless you make it",
            )  # fmt: skip
    for sequence in (s for c in table.columns if c.name == "global_position" for s in c.sequences):
        if (sequence.start if sequence.last is None else sequence.last + sequence.increment) <= 0:
            yield Finding(
                "low-positions", "source",
                f"sequence {sequence.name} of the source hands out positions at or below 0, which"
                " are never carried",
                f"alter sequence {sequence.name} minvalue 1 start 1 restart 1",
            )  # fmt: skip
        if sequence.most - (sequence.last or 0) < ROOM:
            yield warning(
                "sequence-end", "source",
                f"sequence {sequence.name} of the source ends at {sequence.most}, which is near",
                lengthened(sequence),
            )  # fmt: skip


def of_the_target(table: TableCatalog, *, fire: bool) -> Iterator[Finding]:
    """What only matters where the tenant arrives; ``fire`` when its triggers are meant to."""
    yield from unguardable(table, "target")
    yield from fired(table, fire=fire)
    for rule in table.rules:
        if not rule.instead and rule.event in (_ON_INSERT, _ON_DELETE) and rule.enabled != "D":
            yield Finding(
                "rule", "target",
                f"rule {rule.name!r} of the target table would run for a part of the carried rows",
                f"drop rule {quote_identifier(rule.name)} on {table.sql}",
            )  # fmt: skip
    yield from published(table)


def published(table: TableCatalog) -> Iterator[Finding]:
    """What a publication of the target's table has to do with its rows."""
    if table.publishes_deletes and not table.can_delete_published:
        yield Finding(
            "no-replica-identity", "target",
            f"the target table {table.sql} is published without a replica identity, so that no"
            " abort could delete what was carried",
            f"alter table {table.sql} replica identity full",
        )  # fmt: skip
    else:
        yield from _half_published(table)
    if table.publications:
        yield warning(
            "published", "target",
            f"the target table is published ({', '.join(table.publications)}): its subscribers"
            " receive the whole history of the tenant",
        )  # fmt: skip


def _half_published(table: TableCatalog) -> Iterator[Finding]:
    """Publications that hold less of a row than subscribers need to find it."""
    for what, names in (
        ("row filter", table.filtered_publications), ("column list", table.listed_publications)
    ):  # fmt: skip
        for name in names:
            # A list never goes with an identity of all columns.
            remedy = f"alter publication {quote_identifier(name)} set (publish = 'insert')"
            if what == "row filter" and name not in table.listed_publications:
                remedy = f"alter table {table.sql} replica identity full"
            yield Finding(
                "no-replica-identity", "target",
                f"the target table {table.sql} is published by {name} with a {what} that does not"
                " go with its replica identity, so that no abort could delete what was carried",
                remedy,
            )  # fmt: skip


def fired(table: TableCatalog, *, fire: bool) -> Iterator[Finding]:
    """Triggers that see the carried rows."""
    for trigger in firing(table):
        yield Finding(
            "target-triggers", "target",
            f"trigger {trigger.name!r} of the target table ({trigger.function}, on"
            f" {' or '.join(trigger.events)}) fires for every carried row and not only for new"
            " events",
            None if fire else "make it step aside with the condition when (current_setting("
            "'eventsource.migration', true) is null), or disable it until the tenant has moved, or"
            " say that it shall fire: target_triggers = \"fire\"",
            refuses=not fire,
        )  # fmt: skip


def firing(table: TableCatalog) -> list[Trigger]:
    """Triggers of other people that a migration's inserts, or the deletes of an abort, set off."""
    return [
        trigger
        for trigger in table.triggers
        if not trigger.is_ours
        and trigger.fires
        and not trigger.steps_aside
        and {"insert", "delete"} & set(trigger.events)
    ]
