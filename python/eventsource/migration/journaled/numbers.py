"""Numbers that sequences give: which sequence, and how far it and its table are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsource.identifiers import quote_identifier
from eventsource.migration.errors import PreflightError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.layouts.declaration import LayoutTable, Numbering


def owned(shape: Shape) -> Iterator[tuple[LayoutTable, Numbering]]:
    """Each table with numbers of its own, and the column that has them."""
    for table in shape.layout.tables:
        for numbering in table.numbered:
            if numbering.like is None:
                yield table, numbering


async def sequences(side: AnyTable, shape: Shape) -> dict[str, str]:
    """By table with numbers of its own: the sequence that gives them, quoted."""
    return {
        table.name: await sequence_of(side, table, numbering.column, numbering.sequence)
        for table, numbering in owned(shape)
    }


async def given(source: AnyTable, shape: Shape) -> dict[str, int]:
    """By table with numbers of its own: the last that its sequence has given."""
    return {
        name: int(
            await source.connection.fetchval(
                "select coalesce(pg_sequence_last_value($1::text::regclass), 0)", sequence
            )
        )
        for name, sequence in (await sequences(source, shape)).items()
    }


async def sequence_of(side: AnyTable, table: LayoutTable, column: str, given: str | None) -> str:
    """The sequence that gives a column its numbers, quoted.

    Raises:
        PreflightError: there is none.
    """
    name = side.beside(table.name)
    if given is not None:
        found = await side.connection.fetchval("select to_regclass($1)::text", side.beside(given))
        if found is None:
            raise PreflightError([f"{name}: there is no sequence {side.beside(given)}"])
        return side.beside(given)
    found = await side.connection.fetchval("select pg_get_serial_sequence($1, $2)", name, column)
    if found is None:
        raise PreflightError(
            [
                f"{column} of {name} draws from no sequence of its own: name it in the layout,"
                f' numbered = {{ {column} = "own:SEQUENCE" }}'
            ]
        )
    return str(found)


async def taken(
    target: AnyTable, table: LayoutTable, numbering: Numbering
) -> tuple[str, int | None, int]:
    """The target's sequence, what it has given last, and the highest number that is taken there.

    That is the offset of what arrives: 0 where the table is unused.
    """
    sequence = await sequence_of(target, table, numbering.column, numbering.sequence)
    row: Any = await target.connection.fetchrow(
        "select pg_sequence_last_value($1::text::regclass) as given,"
        f" (select max({quote_identifier(numbering.column)}) from {target.beside(table.name)})"
        " as highest",
        sequence,
    )
    used = row["given"] is not None or row["highest"] is not None
    offset = max(row["given"] or 0, row["highest"] or 0) if used else 0
    return sequence, row["given"], offset


async def expected(target: AnyTable, shape: Shape) -> dict[str, int]:
    """By table with numbers of its own: the offset that a move would get that began now."""
    return {
        table.name: (await taken(target, table, numbering))[2] for table, numbering in owned(shape)
    }
