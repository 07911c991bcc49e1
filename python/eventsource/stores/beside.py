"""Tables, sequences and functions beside event tables, as the scripts of this version make them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from eventsource.catalog.presence import columns_of
from eventsource.identifiers import qualified, quote_identifier
from eventsource.named_sql import text
from eventsource.stores.schema import SQL

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: In the order in which they can be run.
SCRIPTS: Final = (
    "fences.sql", "progress.sql", "guard.sql", "journal.sql", "bound.sql", "feed.sql",
    "mirror.sql", "grants.sql",
)  # fmt: skip

#: The table without a key, which a publication asks for an identity of its rows.
KEYLESS: Final = "eventsource_changes"

_FUNCTION = re.compile(
    r"create or replace function \{schema\}\.(?P<name>\w+)\((?P<head>.*?)"
    r"as (?P<quote>\$\w+\$)(?P<body>.*?)(?P=quote);",
    re.DOTALL,
)
_TABLE = re.compile(
    r"create table if not exists \{schema\}\.(?P<name>\w+) \((?P<body>.*?)\n\);", re.DOTALL
)
_SEQUENCE = re.compile(r"create sequence if not exists \{schema\}\.(\w+);")
_COLUMN = re.compile(
    r"^    (?!constraint|primary|unique|check|foreign|exclude)([a-z_]+) ", re.MULTILINE
)
_SETTING = re.compile(r"^set ([\w.]+) = ", re.MULTILINE)


async def outdated_objects(connection: Executor, schema: str) -> list[str]:
    """What the scripts would make or change, by name: functions, sequences, and tables that lack a
    column.

    Looked at without a lock: replacing a function that is as it should be would cost every session
    of every process its plan, each time a process starts.
    """
    wanted = _wanted(schema)
    # One name may have several functions, of other parameters.
    found = {
        (row["name"], row["body"], row["definer"], _names(row["settings"]))
        for row in await connection.fetch(SQL["describe_functions"], quote_identifier(schema))
    }
    there = await columns_of(connection, wanted.tables)
    tables = [
        bare
        for name, (bare, columns) in wanted.tables.items()
        if not columns <= there.get(name, set())
    ]
    sequences: list[str] = await connection.fetchval(
        "select array(select name from unnest($2::text[]) name"
        " where to_regclass($1 || '.' || quote_ident(name)) is null)",
        quote_identifier(schema), wanted.sequences,
    )  # fmt: skip
    unidentified = await connection.fetchval(
        "select exists (select from pg_class where oid = to_regclass($1) and relreplident = 'd')",
        qualified(schema, KEYLESS),
    )
    if unidentified and KEYLESS not in tables:
        tables.append(KEYLESS)
    return tables + sequences + [each[0] for each in wanted.functions if each not in found]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the scripts make.

    Attributes:
        functions: name, body, whether it has its owner's rights, and what it sets.
        tables: by qualified name: the bare one, and the columns.
    """

    functions: list[tuple[str, str, bool, frozenset[str]]]
    tables: dict[str, tuple[str, set[str]]]
    sequences: list[str]


@lru_cache(maxsize=16)
def _wanted(schema: str) -> _Wanted:
    script = "".join(text("eventsource.stores", f"sql/{file}") for file in SCRIPTS)
    functions = []
    for match in _FUNCTION.finditer(script):
        body = match["body"].replace("{schema}", quote_identifier(schema))
        definer = "security definer" in match["head"]
        settings = frozenset(_SETTING.findall(match["head"]))
        functions.append((match["name"], body, definer, settings))
    tables = {
        qualified(schema, table["name"]): (table["name"], set(_COLUMN.findall(table["body"])))
        for table in _TABLE.finditer(script)
    }
    return _Wanted(functions, tables, _SEQUENCE.findall(script))


def _names(settings: list[str]) -> frozenset[str]:
    return frozenset(setting.partition("=")[0] for setting in settings)
