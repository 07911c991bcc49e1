"""What has to be true after a run, asked by plain SQL of every table.

The rows of a tenant at the source do not change any more once it has moved: the target holds each
of them, with its number moved by one distance for the whole table. What writers were answered is in
their records, and holds beyond that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from eventsource.migration.layouts.presets import presets
from tests.layouts.torture.libraries import Library, Rows
from tests.layouts.torture.writer import Attempt
from tests.support.worlds.layouts import TARGET

#: How many of a kind are named.
NAMED = 3

Found = dict[str, asyncpg.Record]


@dataclass
class Side:
    """What one store holds of a tenant: rows by table and id, values by event, wrong streams."""

    tables: dict[str, Found] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def events(self, library: Library) -> Found:
        return self.tables[library.rows[0].name]

    @property
    def count(self) -> int:
        return sum(map(len, self.tables.values()))


async def look_at_both(
    source: asyncpg.Connection, target: asyncpg.Connection, library: Library, tenant: str
) -> tuple[Side, Side]:
    return await look(source, library, tenant), await look(target, library, tenant)


async def look(connection: asyncpg.Connection, library: Library, tenant: str) -> Side:
    side = Side()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for table in library.rows:
            rows = await connection.fetch(f"{table.query} order by 1", tenant)
            side.tables[table.name] = {row["id"]: row for row in rows}
            if len(side.tables[table.name]) < len(rows):
                side.doubled.append(table.name)
        found = await connection.fetch(library.values, tenant)
        side.values = {row["id"]: row["value"] for row in found}
        side.wrong = [row[0] for row in await connection.fetch(library.wrong, tenant)]
    return side


def moved(
    library: Library, source: Side, target: Side, seeded: Sequence[str], attempts: Sequence[Attempt]
) -> list[str]:
    """What is wrong where the tenant has moved; attempts are those for it alone."""
    found = _held(library, target, seeded, attempts)
    written = [each for each in attempts if each.store == TARGET and each.outcome != "refused"]
    changed = {each.stream for each in written if each.value is not None}
    grown = changed | {each.stream for each in written}
    for table in library.rows:
        found += _carried(
            table, source.tables[table.name], target.tables[table.name],
            grown if table.grows else changed,
        )  # fmt: skip
    return found + _in_order(library, source.events(library), target.events(library))


def stayed(
    library: Library, source: Side, target: Side, seeded: Sequence[str], attempts: Sequence[Attempt]
) -> list[str]:
    """What is wrong where the tenant is where it was."""
    found = _held(library, source, seeded, attempts)
    if target.count:
        found.append(f"I13 left_behind: {target.count} rows at the target")
    found += [
        f"I13 sent_on: {each.writer} {each.number}"
        for each in attempts
        if each.error.startswith("EVF")
    ][:NAMED]
    return found


def _held(
    library: Library, side: Side, seeded: Sequence[str], attempts: Sequence[Attempt]
) -> list[str]:
    """Everything acknowledged is there, once and as it was changed last, and nothing else is."""
    there = set(side.events(library))
    acknowledged, possible = set(seeded), set(seeded)
    for each in attempts:
        if each.value is None and each.outcome in ("ok", "unknown"):
            possible |= {*each.ids}
            acknowledged |= {*each.ids} if each.outcome == "ok" else set()
    found = [f"I1 lost: event {event}" for event in sorted(acknowledged - there)[:NAMED]]
    found += [f"I2 invented: event {event}" for event in sorted(there - possible)[:NAMED]]
    found += [f"I2 doubled: rows of {table}" for table in side.doubled]
    found += [f"I4 no_such_stream: {text}" for text in side.wrong[:NAMED]]
    for each in attempts:
        stored = [event in there for event in each.ids]
        if each.value is None and any(stored) and not all(stored):
            found.append(f"I3 torn: append {each.number} of {each.writer}")
        if each.outcome == "error":
            found.append(f"I7 refused: {each.writer} {each.number}: {each.error[:200]}")
    allowed = _allowed(library, seeded, attempts)
    wrong = [
        f"I5 changed: event {event} has {value!r}, not {' or '.join(sorted(allowed[event]))}"
        for event, value in sorted(side.values.items())
        if event in allowed and value not in allowed[event]
    ]
    return [*found[: 4 * NAMED], *wrong[:NAMED]]


def _allowed(
    library: Library, seeded: Sequence[str], attempts: Sequence[Attempt]
) -> dict[str, set[str]]:
    """By event, the values that it may have. Streams that change are one task's alone."""
    allowed: dict[str, set[str]] = defaultdict(lambda: {library.unchanged})
    for event in seeded:
        allowed[event] = {library.unchanged}
    for each in attempts:
        for event in each.ids:
            if each.value is None:
                allowed[event] = {library.unchanged}
            elif each.outcome == "ok":
                allowed[event] = {each.value}
            elif each.outcome == "unknown":
                allowed[event].add(each.value)
    return allowed


def _carried(table: Rows, source: Found, target: Found, touched: set[str]) -> list[str]:
    """Each row of the source is at the target, unless its stream has changed there since."""
    found: list[str] = []
    distances = set()
    for key, row in source.items():
        there = target.get(key)
        if there is None:
            if row["stream"] not in touched:
                found.append(f"I1 not_carried: {table.name} {key}")
            continue
        if row["number"] is not None:
            distances.add(there["number"] - row["number"])
        if there["rest"] != row["rest"] and row["stream"] not in touched:
            found.append(f"I5 differs: {table.name} {key}: {row['rest']} and {there['rest']}"[:400])
    if len(distances) > 1:
        found.append(f"I6 distances: {table.name} {sorted(distances)[:5]}")
    return found[:NAMED]


def _in_order(library: Library, source: Found, target: Found) -> list[str]:
    """A reader of the target gets what was carried in its order, and before all that is newer."""
    keys = [part.strip() for part in library.order.split(",")]

    def place(row: asyncpg.Record) -> list[Any]:
        return [int(row[key]) for key in keys]

    carried = [place(row) for key, row in target.items() if key in source]
    newer = [place(row) for key, row in target.items() if key not in source]
    if carried and newer and min(newer) < max(carried):
        return [f"I6 order: {min(newer)} is newer than {max(carried)}"]
    return []


async def left(connection: asyncpg.Connection, library: Library) -> list[str]:
    """I13: what migrations that are over have left beside the tables."""
    found, schema = [], presets()[library.preset].schema
    for table in ("eventsource_changes", "eventsource_fences", "eventsource_witnesses",
                  "eventsource_copy_progress"):  # fmt: skip
        rows = await connection.fetchval(
            f"select count(*) from {f'{schema}.' if schema else ''}{table}"
        )
        if rows:
            found.append(f"I13 left_behind: {rows} rows of {table}")
    return found


def of_tenant(attempts: Sequence[Attempt], tenant: str) -> list[Attempt]:
    return [each for each in attempts if each.tenant == tenant]
