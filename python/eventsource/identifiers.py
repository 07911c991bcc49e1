"""Quoting of SQL identifiers and literals. No other module does it."""

from __future__ import annotations

# NAMEDATALEN - 1: the server cuts longer names without an error, so two tables could become one.
MAX_IDENTIFIER_BYTES = 63


def quote_identifier(name: str) -> str:
    """``name`` as one quoted SQL identifier; a dot in it is part of the name.

    Raises:
        ValueError: ``name`` is empty, holds a NUL, or is longer than 63 bytes of UTF-8.
    """
    if not name:
        raise ValueError("an SQL identifier cannot be empty")
    if "\x00" in name:
        raise ValueError(f"an SQL identifier cannot hold a NUL character: {name!r}")
    size = len(name.encode("utf-8"))
    if size > MAX_IDENTIFIER_BYTES:
        raise ValueError(
            f"{name!r} has {size} bytes; PostgreSQL identifiers have at most "
            f"{MAX_IDENTIFIER_BYTES}: choose a shorter name"
        )
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, name: str) -> str:
    """``"schema"."name"``, or ``"name"`` (found by the search path) when ``schema`` is None."""
    if schema is None:
        return quote_identifier(name)
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def quote_literal(text: str) -> str:
    """``text`` as an SQL literal, for the statements that take no parameters.

    It reads the same whatever ``standard_conforming_strings`` says.

    Raises:
        ValueError: it holds a NUL, which no text of the server does.
    """
    if "\x00" in text:
        raise ValueError("an SQL text cannot hold a NUL character")
    quoted = text.replace("'", "''")
    if "\\" in quoted:
        return "E'" + quoted.replace("\\", "\\\\") + "'"
    return f"'{quoted}'"
