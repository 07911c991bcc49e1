"""Reading a table's catalog: one statement, whatever the role and the database have set."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, cast

import asyncpg

from eventsource.catalog.model import (
    Column,
    Constraint,
    Rule,
    Sequence,
    TableCatalog,
    Trigger,
    Type,
    Unique,
)
from eventsource.named_sql import statements
from eventsource.retried import Retried
from eventsource.schema_changes import LOST

if TYPE_CHECKING:
    from eventsource.connections import Executor

SQL: Final = statements("eventsource.catalog", "catalog.sql")

#: Names are printed the same way in every database, and literals mean what they say. Planning the
#: statement takes twice as long as running it, so that a session keeps its first plan.
_SETTINGS = (
    "set local search_path = pg_catalog, pg_temp; set local quote_all_identifiers = off;"
    " set local standard_conforming_strings = on; set local plan_cache_mode = force_generic_plan"
)

_PLAINLY: Final = "eventsource_catalog"


async def read(executor: Executor, table: str) -> TableCatalog | None:
    """The catalog of ``table`` (quoted and qualified), None when there is nothing of that name."""
    async with _plainly(executor) as connection:
        text = await connection.fetchval(SQL["snapshot"], table)
    return None if text is None else _catalog(json.loads(text))


async def companions(
    executor: Executor, table: str, but: tuple[str, ...] = ()
) -> list[tuple[str, bool]]:
    """Other tables with a ``tenant_id``, or with a foreign key to ``table`` (then True)."""
    async with _plainly(executor) as connection:
        rows = await connection.fetch(SQL["companions"], table, list(but))
    return [(row["name"], row["points_here"]) for row in rows]


@asynccontextmanager
async def _plainly(executor: Executor) -> AsyncIterator[Executor]:
    if isinstance(executor, Retried):
        executor = executor.executor
    if isinstance(executor, asyncpg.Pool):
        async with executor.acquire() as pooled, _plainly(cast("Executor", pooled)) as connection:
            yield connection
        return
    connection = cast("asyncpg.Connection[Any]", executor)
    # Within a transaction this is a savepoint. It is rolled back in any case: that takes the
    # settings back with it, which a release would leave to the caller's transaction.
    begin, undo = "begin isolation level read committed", "rollback"
    if connection.is_in_transaction():
        begin, undo = f"savepoint {_PLAINLY}", f"rollback to savepoint {_PLAINLY}"
    try:
        await connection.execute(f"{begin}; {_SETTINGS}")
        yield connection
    finally:
        # For a caller that was cancelled the server may have begun it or not: the client does not
        # know yet. What was lost has lost its settings too; what lost it is the error to report.
        with suppress(asyncpg.InvalidSavepointSpecificationError, *LOST):
            await connection.execute(undo)


def _catalog(seen: dict[str, Any]) -> TableCatalog:
    types = {each["oid"]: each for each in seen.pop("types")}
    columns = tuple(
        Column(
            **{
                **column,
                "type": _type(column["type"], types),
                "sequences": tuple(Sequence(**each) for each in column["sequences"]),
            }
        )
        for column in seen["columns"]
    )
    values = {
        **seen,
        "columns": columns,
        "triggers": tuple(Trigger(**each) for each in seen["triggers"]),
        "rules": tuple(Rule(**each) for each in seen["rules"]),
        **{
            name: tuple(
                kind(**{each: _frozen(value) for each, value in one.items()}) for one in seen[name]
            )
            for name, kind in (("constraints", Constraint), ("uniques", Unique))
        },
    }
    for name in (
        "children", "parents", "publications", "filtered_publications", "listed_publications",
    ):  # fmt: skip
        values[name] = tuple(values[name])
    return TableCatalog(**{each.name: values[each.name] for each in fields(TableCatalog)})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _type(oid: int, types: Mapping[int, dict[str, Any]]) -> Type:
    seen = types[oid]
    parts: list[tuple[str, Type, int]] = []
    home, kind, name = seen["home"], seen["kind"], seen["name"]
    if seen["element"] is not None:
        element = _type(seen["element"], types)
        parts.append(("element", element, -1))
        home, kind = element.home, "array"
        # The name of an array type is made by the server, and is another one after a conflict.
        name = f"{element.name}[]" if name.startswith("_") else name
    elif seen["base"] is not None:
        parts.append(("base", _type(seen["base"], types), seen["modifier"]))
    elif seen["subtype"] is not None:
        parts.append(("subtype", _type(seen["subtype"], types), -1))
    for label, attribute, modifier in seen["attributes"]:
        parts.append((label, _type(attribute, types), modifier))
    return Type(
        home=home,
        name=name,
        kind=kind,
        parts=tuple(parts),
        labels=tuple(seen["labels"]),
        checks=tuple(seen["checks"]),
        not_null=seen["not_null"],
        has_binary_form=seen["binary"],
        has_fixed_oid=seen["fixed"],
    )
