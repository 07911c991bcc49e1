"""Whose a row is, where that cannot be known, and what it costs to know it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from eventsource.catalog.findings import Finding, warning
from eventsource.counts import counted
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import timeouts
from eventsource.migration.layouts.declaration import Stops

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.layouts.declaration import Layout, LayoutTable

WAITS = {
    Stops.TENANT: "writers of this tenant wait",
    Stops.CATEGORY: "writers of this tenant's category wait: the library locks it",
    Stops.TABLE: "writers of all tenants wait: the library locks the whole table",
}

#: By a table and columns that only it has: who numbers the events of all tenants without a gap.
_DENSE = {
    "stream_events": (
        {"stream_id", "stream_version", "original_stream_id", "original_stream_version"},
        "the EventStore of Elixir counts in stream $all",
    ),
    "aggregate_types": ({"id", "offset"}, "eventually counts in aggregate_types.offset"),
}

_COLUMNS = """
select c.relname::text as name, array_agg(a.attname::text) as columns
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where n.nspname = $1 and c.relname = any ($2::text[]) group by c.relname
"""


def waits(layout: Layout) -> str:
    """Whose writers wait while the fence is held."""
    through = [each.name for each in layout.tables if each.tenancy.through is not None]
    said = WAITS[layout.stops]
    if through:
        said += (
            f"; while the tenant moves, every write of any tenant to {', '.join(through)} looks up"
            " whose it is (measured: two thirds of its speed)"
        )
    return said


def in_bytes(shape: Shape) -> Iterator[Finding]:
    """A tenant that is inside of bytes cannot be read by the database."""
    for table in shape.layout.tables:
        for column in shape.source.tables[table.name].columns:
            if column.type.name == "bytea" and _names(table, column.name):
                yield Finding(
                    "tenant-in-bytes", "source",
                    f"the tenant of {shape.source.name(table.name)} is inside of {column.name},"
                    " which is bytea: only the library can read it, and no guard can say whose a"
                    " row is",
                    "let the application write the tenant into a column of its own or into the name"
                    " of the stream, and name that in the layout",
                )  # fmt: skip


def _names(table: LayoutTable, column: str) -> bool:
    tenancy = table.tenancy
    if tenancy.expression is None:
        return tenancy.column == column
    word = re.escape(column)
    return re.search(rf'(?<![\w$])(?:{word}|"{word}")(?![\w$])', tenancy.expression) is not None


async def counted_densely(source: AnyTable, shape: Shape) -> list[Finding]:
    """Numbers without a gap over all tenants: a tenant that leaves would take some out."""
    if shape.layout.is_whole:
        return []
    rows: list[Any] = await source.connection.fetch(_COLUMNS, source.address.schema, list(_DENSE))
    return [
        Finding(
            "dense-numbers", "source",
            f"the events of all tenants have numbers without a gap here ({_DENSE[row['name']][1]}):"
            " readers stop at a gap, and a tenant that leaves would make one",
            "only a tenant with a schema or a database of its own can move:"
            " `eventsource-migrate layouts NAME --whole STORE`",
        )
        for row in rows
        if _DENSE[row["name"]][0] <= set(row["columns"])
    ]  # fmt: skip


async def shared_streams(source: AnyTable, shape: Shape) -> list[Finding]:
    """Links that go with their events out of streams that other tenants' events are in, too."""
    found = []
    for table in shape.layout.tables:
        if table.tenancy.through is None or not table.stream:
            continue
        name = shape.source.name(table.name)
        columns = {each.name: each for each in shape.source.tables[table.name].columns}
        same = " and ".join(
            # No join is made by the other operator: with it each row would look at all others.
            f"subject.{quote_identifier(each)}"
            f" {'=' if columns[each].not_null else 'is not distinct from'}"
            f" mine.{quote_identifier(each)}"
            for each in table.stream
        )
        [row] = await source.connection.fetch(
            f"select count(*) as links, min({quote_identifier(table.stream[0])}::text) as example"
            f" from {shape.rows(table, shape.source)} mine where exists (select from {name} subject"
            f" where {same} and not ({shape.predicate(table, shape.source)}))",
            timeout=timeouts.LONG_STATEMENT_SECONDS,
        )
        if row["links"]:
            are = "is" if row["links"] == 1 else "are"
            found.append(
                warning(
                    "shared-streams", "source",
                    f"{counted(row['links'], 'row')} of {name} {are} in streams with events of"
                    f" other tenants, too (such as {row['example']!r}): they go with"
                    " their events, and a reader of such a stream finds the rest of it here and"
                    " these at the target",
                )
            )  # fmt: skip
    return found
