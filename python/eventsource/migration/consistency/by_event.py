"""Rows compared by event id, whatever their positions: each server digests its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.connections import transaction
from eventsource.declared import uuid_of
from eventsource.identifiers import quote_identifier
from eventsource.retried import Retried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsource.migration.event_table import AnyTable

#: A value reads the same in both databases, whatever their defaults are. Row-level security that
#: would hide rows is an error: on both sides it would make those equal that nobody has seen.
_SETTINGS = (
    "select set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO, YMD', true),"
    " set_config('intervalstyle', 'postgres', true), set_config('extra_float_digits', '3', true),"
    " set_config('bytea_output', 'hex', true),"
    " set_config('row_security', 'off', true)"
)


async def read(
    table: AnyTable, columns: Sequence[str], condition: str, *arguments: object
) -> list[Any]:
    """Rows with their place in the stream and a digest of ``columns``, their position left out."""
    carried = ", ".join(_as_text(columns))
    found = await fetch(
        table,
        "select global_position, event_id, aggregate_type, aggregate_id, version,"
        f" sha256(convert_to(row({carried})::text, 'UTF8')) as digest"
        f" from {table.name} where {condition}",
        *arguments,
    )
    if found and not isinstance(found[0]["event_id"], UUID):
        ids = ("event_id", "aggregate_id")
        return [{**row, **{name: uuid_of(row[name]) for name in ids}} for row in found]
    return found


async def fields(table: AnyTable, columns: Sequence[str], event_id: UUID) -> dict[str, str | None]:
    """The values of one event as text, its position left out; empty where it is not there."""
    found = await fetch(
        table,
        f"select {', '.join(_as_text(columns))} from {table.name} where event_id = $1",
        event_id,
    )
    names = [name for name in columns if name != "global_position"]
    return dict(zip(names, found[0], strict=True)) if found else {}


def _as_text(columns: Sequence[str]) -> list[str]:
    return [f"{quote_identifier(name)}::text" for name in columns if name != "global_position"]


async def fetch(
    table: AnyTable, statement: str, *arguments: object, timeout: float | None = None
) -> list[Any]:
    """Rows of a statement, all that are there, in these forms.

    Raises:
        asyncpg.InsufficientPrivilegeError: row-level security would hide some.
    """
    executor = table.connection
    if isinstance(executor, Retried):
        executor = executor.executor
    async with transaction(executor) as connection:
        await connection.execute(_SETTINGS)
        return list(await connection.fetch(statement, *arguments, timeout=timeout))
