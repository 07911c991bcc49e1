"""Expressions that say whose a row is: triggers evaluate them for every row of every tenant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncpg

from eventsource.catalog.findings import Finding
from eventsource.identifiers import quote_literal
from eventsource.migration.journaled.catalogs import VIRTUAL
from eventsource.schema_changes import tried_out

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.shapes import Side
    from eventsource.migration.layouts.declaration import LayoutTable

#: Casts but to text, which none refuses.
_CAST = re.compile(r"::\s*(?!text\b|varchar\b)|\bcast\s*\(", re.IGNORECASE)

#: Rows for which it is tried out: a function may fail when it is called.
_TRIED = 1_000

# As the functions of the guard have it.
_SETTINGS = "set local search_path = pg_catalog, pg_temp; set local timezone = 'UTC'"

# The columns of the table that lasts for a moment which its generated one is made of.
_USED = """
select array(select a.attname::text from pg_attrdef f
             join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
                 and d.refclassid = 'pg_class'::regclass and d.refobjid = f.adrelid
             join pg_attribute a on a.attrelid = f.adrelid and a.attnum = d.refobjsubid
             where f.adrelid = 'pg_temp.eventsource_probe'::regclass)
"""


async def check(here: AnyTable, shown: Side, side: str, table: LayoutTable) -> list[Finding]:
    """Of one side: what it is made of, and whether it can be evaluated where triggers do it."""
    name, expression = shown.name(table.name), str(table.tenancy.expression)
    if ")" in expression and not _is_balanced(expression):
        return [
            Finding(
                "tenant-expression", side,
                f"{expression!r} is no expression: its parentheses are not balanced",
            )
        ]  # fmt: skip
    cannot = f"the tenant of {name} of the {side} cannot be {expression!r}"
    if _CAST.search(expression):
        return [
            Finding(
                "tenant-expression", side,
                f"{cannot}: a cast that fails for one row would refuse that row to its writer, of"
                " whatever tenant; cast to text only",
            )
        ]  # fmt: skip
    try:
        used = await _used(here, name, expression)
    except asyncpg.InsufficientPrivilegeError as error:
        return [Finding("tenant-expression", side, f"{cannot}: {error}",
                        "grant that to the role of the dsn")]  # fmt: skip
    except asyncpg.PostgresError as error:
        return [Finding("tenant-expression", side, f"{cannot}: {error}", _remedy(error))]
    return [
        Finding(
            "virtual-tenant", side,
            f"{cannot}: {column.name} is a virtual column, which no trigger sees",
            f"write what it is made of: {column.default}",
        )
        for column in shown.tables[table.name].columns
        if column.name in used and column.generated == VIRTUAL
    ]  # fmt: skip


async def _used(here: AnyTable, name: str, expression: str) -> list[str]:
    """As a generated column of a table that lasts for a moment: that takes no volatile function,
    no subquery and nothing that is more than an expression."""
    async with tried_out(here.connection) as connection:
        await connection.execute(_SETTINGS)
        await connection.execute(
            f"create temporary table eventsource_probe (like {name}, eventsource_tenant text"
            f" generated always as (({expression})::text) stored) on commit drop"
        )
        used: list[str] = await connection.fetchval(_USED)
        # Within a function, as a trigger does it: what it calls finds its names by that path.
        await connection.execute(
            "do "
            + quote_literal(
                "#variable_conflict use_column\nbegin"
                f" perform ({expression})::text from {name} subject limit {_TRIED}; end"
            )
        )
        return used


def _remedy(error: asyncpg.PostgresError) -> str:
    if isinstance(error, (asyncpg.UndefinedFunctionError, asyncpg.UndefinedObjectError)):
        return (
            "a function and an operator of your own stand with their schema, as in"
            " public.owner_of(data) and tags operator(public.->) 'tenant', on both sides"
        )
    return "write an expression over its columns whose functions are immutable"


def _is_balanced(expression: str) -> bool:
    depth = 0
    for each in expression:
        depth += (each == "(") - (each == ")")
        if depth < 0:
            return False
    return depth == 0
