"""Routes for applications that reach their stores by another client: psycopg, Django, SQLAlchemy.

Nothing here opens a connection or keeps one: it asks over a connection of DB-API 2.0 (PEP 249),
and reads the errors that such clients raise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from eventsource.errors import EventSourceError
from eventsource.identifiers import qualified, quote_identifier, quote_literal
from eventsource.sqlstates import MOVED, sqlstate_of

__all__ = ["Route", "RouteHiddenError", "find_route", "moved_to"]

_PLACES = {
    "qmark": "?",
    "numeric": ":1",
    "named": ":tenant",
    "format": "%s",
    "pyformat": "%(tenant)s",
}


_COLUMNS = ("r.store_id", "r.generation", "s.active")


class RouteHiddenError(EventSourceError):
    """Row-level security may hide the tenant's route, so "none" would be a guess."""


class Connection(Protocol):
    """A connection of DB-API 2.0."""

    def cursor(self) -> Any:
        """A new cursor."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """Where a tenant lives. A higher generation is a newer one."""

    store_id: str
    generation: int


def find_route(
    connection: Connection,
    tenant_id: UUID | str,
    *,
    schema: str | None = None,
    paramstyle: str | None = None,
) -> Route | None:
    """The tenant's route as the control database has it now; None for the default store.

    One statement, in whatever transaction the connection is in; nothing is committed.

    Args:
        connection: to the control database, as psycopg, pg8000, a raw one of SQLAlchemy, or
            ``django.db.connections["control"]``.
        schema: of the control tables; None leaves it to the search path.
        paramstyle: how the client marks parameters, as PEP 249 names it. None is what the module
            of the connection says, and "format" where it says nothing.

    Raises:
        RouteHiddenError: row-level security may hide the route.
        ValueError: the paramstyle is none of PEP 249.
        TypeError: the connection's row factory keeps less of a row than its columns.
    """
    style = paramstyle or _paramstyle_of(connection)
    if style not in _PLACES:
        raise ValueError(f"paramstyle must be one of {', '.join(_PLACES)}, not {style!r}")
    name = "tenant_routing"
    table = quote_identifier(name) if schema is None else qualified(schema, name)
    # A client may take every percent sign for a parameter: there is none but that.
    active = f"row_security_active({quote_literal(table)})"
    query = (
        f"select {', '.join(_COLUMNS)} from (select {active} as active) s"
        f" left join {table} r on r.tenant_id = {_PLACES[style]}"
    )
    given: Any = str(tenant_id)
    named = style in ("named", "pyformat")
    cursor = connection.cursor()
    try:
        cursor.execute(query, {"tenant": given} if named else (given,))
        store_id, generation, is_active = _columns(cursor.fetchone())
    finally:
        cursor.close()
    if store_id is not None:
        return Route(store_id, generation)
    if is_active:
        raise RouteHiddenError(
            f"row-level security of {table} applies to this role, so that a route that is not found"
            f" may be there; create policy eventsource_reads on {table} for select using (true), or"
            f" alter table {table} disable row level security"
        )
    return None


def moved_to(error: BaseException) -> Route | None:
    """Where a refused write has to go, if that is why it was refused; None for other errors.

    Reads what asyncpg, psycopg, psycopg2 and pg8000 raise, also where SQLAlchemy, Django or an
    application raises its own error from it. The transaction is lost: roll back, and run it again
    at that store.
    """
    for each in _causes(error):
        sqlstate, detail = _answer(each)
        if sqlstate == MOVED and detail:
            found = json.loads(detail)
            return Route(found["target_store_id"], found["generation"])
    return None


def _columns(row: Any) -> tuple[Any, ...]:
    """The values of a row, which the connection gives as a sequence, a mapping or an object."""
    names = [name.partition(".")[2] for name in _COLUMNS]
    if isinstance(row, Mapping):
        return tuple(row[name] for name in names)
    if all(hasattr(row, name) for name in names):
        return tuple(getattr(row, name) for name in names)
    if not isinstance(row, Sequence) or len(row) != len(names) or isinstance(row, str):
        raise TypeError(
            f"the connection's row factory makes {type(row).__name__} of a row: give find_route a"
            " connection whose rows are tuples, mappings, or objects with the columns' names"
        )
    return tuple(row)


def _paramstyle_of(connection: Connection) -> str:
    modules = type(connection).__module__.split(".")
    for end in range(len(modules), 0, -1):
        module = sys.modules.get(".".join(modules[:end]))
        if (style := getattr(module, "paramstyle", None)) is not None:
            return str(style)
    return "format"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        # Not its context: a retry that fails while a refusal is handled has the refusal there.
        waiting += [each.__cause__, getattr(each, "orig", None)]


def _answer(error: BaseException) -> tuple[str | None, str | None]:
    """SQLSTATE and DETAIL as one client or another has them."""
    sqlstate = sqlstate_of(error) or getattr(error, "pgcode", None)
    detail = getattr(error, "detail", None)
    if detail is None:
        detail = getattr(getattr(error, "diag", None), "message_detail", None)
    if sqlstate is None and error.args and isinstance(error.args[0], dict):
        # pg8000 hands on the fields of the server's message by their letters.
        sqlstate, detail = error.args[0].get("C"), error.args[0].get("D")
    return sqlstate, detail
