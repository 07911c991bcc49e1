"""A layout from the entries of a TOML table, and every mistake in them by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from eventsource.identifiers import quote_identifier
from eventsource.migration.layouts.declaration import (
    Changes,
    Layout,
    LayoutError,
    LayoutTable,
    Numbering,
    Stops,
    Tenancy,
    Through,
)

_LAYOUT = (
    "title", "tables", "schema", "changes", "stops", "stays", "readers", "after_flip", "headroom",
    "recognised_by", "tenant", "every_table",
)  # fmt: skip
_TABLE = (
    "table", "events", "key", "scan", "tenant", "numbered", "stamps", "where", "written_by",
    "stream", "version", "event_id",
)  # fmt: skip


def layout_of(name: str, entry: Mapping[str, Any]) -> Layout:
    """The layout that the entries of ``[layouts.NAME]`` declare.

    Raises:
        LayoutError: an entry is missing, unknown or wrong.
    """
    where = f"[layouts.{name}]"
    _refuse_unknown(where, entry, _LAYOUT)
    given = entry.get("tables")
    if not isinstance(given, list) or not given or not all(isinstance(t, dict) for t in given):
        raise LayoutError(f"{where}: tables must be a list of tables, each with its name")
    is_whole = _is_whole(where, entry)
    tables = tuple(_table(where, each, is_whole) for each in given)
    mains = [each for each in given if each.get("events")]
    if len(mains) != 1:
        raise LayoutError(f"{where}: mark exactly one of the tables with events = true")
    names = [each.name for each in tables]
    if len(set(names)) < len(names):
        raise LayoutError(f"{where}: a table is declared twice")
    for place, table in enumerate(tables):
        _check_references(where, table, names[:place])
    for each in () if is_whole else given:
        if not each.get("events") and each.get("written_by") != "append":
            raise LayoutError(
                f'{where}: {each.get("table")}: say written_by = "append" if the transactions'
                " that append events write it. What a projection of all tenants writes does not"
                " travel: leave the table out and build it again at the target"
            )
    [main] = mains
    headroom = entry.get("headroom")
    if headroom is not None and (not isinstance(headroom, int) or not 1 <= headroom <= 10**12):
        raise LayoutError(f"{where}: headroom must be a whole number, not {headroom!r}")
    return Layout(
        name=name,
        title=_text(where, entry, "title", name),
        tables=tables,
        events=main["table"],
        schema=_name(where, entry, "schema"),
        changes=_choice(where, entry, "changes", Changes, Changes.JOURNAL),
        stops=_choice(where, entry, "stops", Stops, Stops.TENANT),
        stays=_stays(where, entry),
        readers=_readers(where, entry),
        after_flip=_optional(where, entry, "after_flip"),
        headroom=headroom,
        stream=_names(where, main, "stream"),
        version=_name(where, main, "version"),
        event_id=_name(where, main, "event_id"),
        recognised_by=_names(where, entry, "recognised_by"),
        is_schema=is_whole and _flag(where, entry, "every_table", True),
    )


def _is_whole(where: str, entry: Mapping[str, Any]) -> bool:
    """Whether a tenant owns the tables, as with a schema for each."""
    tenant = entry.get("tenant")
    if tenant not in (None, "whole"):
        raise LayoutError(
            f'{where}: tenant can only be "whole" here, where all rows are one tenant\'s; what says'
            " whose a row is belongs to each table"
        )
    if tenant is None and "every_table" in entry:
        raise LayoutError(f'{where}: every_table goes with tenant = "whole"')
    return tenant is not None


def _table(where: str, entry: Mapping[str, Any], is_whole: bool) -> LayoutTable:
    name = _name(where, entry, "table")
    if name is None:
        raise LayoutError(f'{where}: a table has no name: table = "…"')
    here = f"{where}: {name}"
    _refuse_unknown(here, entry, _TABLE)
    if is_whole and (foreign := {"tenant", "numbered", "where"} & set(entry)):
        raise LayoutError(
            f'{here}: {", ".join(sorted(foreign))} cannot be given where tenant is "whole": all'
            " rows travel, with the numbers that they have"
        )
    key = _names(here, entry, "key")
    if not key:
        raise LayoutError(f"{here}: key must name the columns that are unique for a row")
    return LayoutTable(
        name=name,
        key=key,
        tenancy=Tenancy(whole=True) if is_whole else _tenancy(here, entry.get("tenant")),
        scan=_names(here, entry, "scan") or None,
        numbered=_numbered(here, entry),
        stamps=_names(here, entry, "stamps"),
        where=_optional(here, entry, "where"),
        stream=_names(here, entry, "stream"),
    )


def _numbered(where: str, entry: Mapping[str, Any]) -> tuple[Numbering, ...]:
    numbered = tuple(_numbering(where, *each) for each in _mapping(where, entry, "numbered"))
    own = [each.column for each in numbered if each.like is None]
    if len(own) > 1:
        raise LayoutError(
            f"{where}: numbered: {', '.join(own)} are numbers of its own, and a table has one such"
            " column"
        )
    return numbered


def _tenancy(where: str, given: Any) -> Tenancy:
    wrong = LayoutError(
        f'{where}: tenant must be a column, {{ expression = "…" }} or'
        " { through = TABLE, columns = […], referenced = […] }"
    )
    if given == "whole":
        raise LayoutError(f'{where}: write tenant = "whole" once, for all tables of the layout')
    if isinstance(given, str):
        return Tenancy(column=_checked(where, given))
    if not isinstance(given, dict):
        raise wrong
    if set(given) == {"expression"} and isinstance(given["expression"], str):
        return Tenancy(expression=given["expression"])
    if set(given) == {"through", "columns", "referenced"}:
        columns, referenced = _names(where, given, "columns"), _names(where, given, "referenced")
        if columns and len(columns) == len(referenced):
            table = _checked(where, given["through"])
            return Tenancy(through=Through(table, columns, referenced))
    raise wrong


def _numbering(where: str, column: str, rule: Any) -> Numbering:
    """``"own"``, ``"own:SEQUENCE"``, ``"like:TABLE"`` or ``{ per_tenant = STATEMENT }``."""
    if isinstance(rule, dict):
        statement = rule.get("per_tenant")
        if set(rule) != {"per_tenant"} or not isinstance(statement, str) or "$1" not in statement:
            raise LayoutError(
                f"{where}: numbered: {column} must be {{ per_tenant = STATEMENT }}, where the"
                " statement gives the name of the sequence of tenant $1"
            )
        return Numbering(_checked(where, column), per_tenant=statement)
    kind, _, what = str(rule).partition(":")
    if kind == "own":
        return Numbering(_checked(where, column), sequence=what or None)
    if kind == "like" and what:
        return Numbering(_checked(where, column), like=_checked(where, what))
    raise LayoutError(
        f'{where}: numbered: {column} must be "own", "own:SEQUENCE" or "like:TABLE", not {rule!r}'
    )


def _check_references(where: str, table: LayoutTable, before: list[str]) -> None:
    """What a table refers to has to stand before it: it is written first."""
    wanted = {each.like for each in table.numbered if each.like is not None}
    if any(each.like is None for each in table.numbered):
        # A row may have the number of another one of its table, such as that of its cause.
        wanted.discard(table.name)
    if table.tenancy.through is not None:
        wanted.add(table.tenancy.through.table)
    missing = sorted(wanted - set(before))
    if missing:
        raise LayoutError(
            f"{where}: {table.name} refers to {', '.join(missing)}: declare it before {table.name}"
        )


def _readers(where: str, entry: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """A list of tables, or tables with a condition for the rows that are positions."""
    if isinstance(entry.get("readers"), dict):
        given = _mapping(where, entry, "readers")
        return tuple((_checked(where, name), str(rows)) for name, rows in given)
    return tuple((name, "true") for name in _names(where, entry, "readers"))


def _stays(where: str, entry: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(why)) for name, why in _mapping(where, entry, "stays"))


def _mapping(where: str, entry: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    given = entry.get(name, {})
    if not isinstance(given, dict):
        raise LayoutError(f"{where}: {name} must be a table")
    return given.items()


def _names(where: str, entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    given = entry.get(name, [])
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list):
        raise LayoutError(f"{where}: {name} must be a list of names")
    return tuple(_checked(where, each) for each in listed)


def _name(where: str, entry: Mapping[str, Any], name: str) -> str | None:
    return None if entry.get(name) is None else _checked(where, entry[name])


def _checked(where: str, name: Any) -> str:
    if not isinstance(name, str):
        raise LayoutError(f"{where}: {name!r} is no name")
    try:
        quote_identifier(name)
    except ValueError as error:
        raise LayoutError(f"{where}: {error}") from None
    return name


def _optional(where: str, entry: Mapping[str, Any], name: str) -> str | None:
    return None if entry.get(name) is None else _text(where, entry, name, "")


def _text(where: str, entry: Mapping[str, Any], name: str, default: str) -> str:
    value = entry.get(name, default)
    if not isinstance(value, str):
        raise LayoutError(f"{where}: {name} must be a text")
    return value


def _flag(where: str, entry: Mapping[str, Any], name: str, default: bool) -> bool:
    value = entry.get(name, default)
    if not isinstance(value, bool):
        raise LayoutError(f"{where}: {name} must be true or false")
    return value


Choice = TypeVar("Choice", Changes, Stops)


def _choice(
    where: str, entry: Mapping[str, Any], name: str, kind: type[Choice], default: Choice
) -> Choice:
    try:
        return kind(entry.get(name, default))
    except ValueError:
        known = ", ".join(repr(each.value) for each in kind)
        raise LayoutError(f"{where}: {name} must be one of {known}") from None


def _refuse_unknown(where: str, entry: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in entry:
        if name not in known:
            raise LayoutError(f"{where}: unknown entry {name!r}; known are {', '.join(known)}")
