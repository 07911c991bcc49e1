"""What a database holds for an event table, and what a store requires of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eventsource.catalog.layouts import not_ours
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import qualified
from eventsource.named_sql import statements

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

SQL: Final = statements("eventsource.stores", "sql/events.sql")

_TEXT = ("text", "character varying")
# What each column may be; the first type is what create_schema() makes.
REQUIRED_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "global_position": ("bigint",),
    "event_id": ("uuid",),
    "aggregate_id": ("uuid",),
    "aggregate_type": _TEXT,
    "event_type": _TEXT,
    "tenant_id": ("uuid",),
    "version": ("bigint", "integer"),
    "timestamp": ("timestamp with time zone",),
    "actor_id": _TEXT,
    "payload": ("jsonb",),
    "metadata": ("jsonb",),
    "created_at": ("timestamp with time zone",),
    "transaction_id": ("xid8",),
}

# Columns that every append fills or that are checked on their own; any other has to accept null
# or have a default.
_WRITTEN = frozenset(REQUIRED_COLUMNS) - {"created_at", "transaction_id"}

#: What create_schema() adds to a table that lacks it.
ADDED: Final = frozenset({"transaction_id"})

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "a partitioned table",
    "S": "a sequence",
    "i": "an index",
}


_DIVIDED = (
    ". In a partitioned one, event ids and the versions of a stream are unique within a partition"
    " only. To move tenants of one that your own code reads and writes, declare a layout"
)


@dataclass(frozen=True, slots=True)
class Index:
    """A btree index over whole columns; ``unique`` and ``columns`` say what it serves."""

    columns: tuple[str, ...]
    unique: bool


REQUIRED_INDEXES: Final = (
    Index(("global_position",), unique=True),
    Index(("event_id",), unique=True),
    Index(("aggregate_id", "aggregate_type", "version"), unique=True),
    Index(("tenant_id", "global_position"), unique=False),
    Index(("tenant_id", "transaction_id", "global_position"), unique=False),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue describes it."""

    name: str
    type: str
    not_null: bool
    identity: str
    has_default: bool
    generated: bool


@dataclass(frozen=True, slots=True)
class Table:
    """An existing table. ``sequence`` draws its positions: quoted, qualified SQL text."""

    oid: int
    schema: str
    name: str
    sequence: str | None

    @property
    def sql(self) -> str:
        """The quoted, qualified name."""
        return qualified(self.schema, self.name)


async def find_table(connection: AnyConnection, schema: str | None, name: str) -> Table | None:
    """The table, None when there is nothing of that name.

    Raises:
        StoreSchemaError: the name is something that is no ordinary table.
    """
    wanted = qualified(schema, name)
    row = await connection.fetchrow(SQL["describe_table"], wanted)
    if row is None:
        return None
    if row["kind"] != "r":
        kind = _KINDS.get(row["kind"], "no table")
        why = _DIVIDED if row["kind"] == "p" else ""
        raise StoreSchemaError(
            f"{wanted} is {kind}: a store needs an ordinary table, pass another table_name{why}"
        )
    return Table(row["oid"], row["schema"], name, row["sequence"])


async def explain(
    connection: AnyConnection, schema: str | None, name: str, error: Exception
) -> None:
    """Raise a StoreSchemaError if the table is why the server refused a statement."""
    table = await find_table(connection, schema, name)
    if table is None:
        raise missing_table(qualified(schema, name)) from error
    try:
        check_columns(table, await columns_of(connection, table))
    except StoreSchemaError as explanation:
        raise explanation from error


def missing_table(table: str) -> StoreSchemaError:
    """The error of a store whose table (quoted SQL text) is not there."""
    return StoreSchemaError(
        f"table {table} does not exist: run create_schema() or "
        f"`eventsource-migrate init`, or correct table_name, schema or the search path"
    )


async def columns_of(connection: AnyConnection, table: Table) -> dict[str, Column]:
    """The columns by name."""
    rows = await connection.fetch(SQL["describe_columns"], table.oid)
    return {row["name"]: Column(**dict(row)) for row in rows}


def check_columns(
    table: Table, columns: dict[str, Column], to_be_added: frozenset[str] = frozenset()
) -> None:
    """Every required column is there with a type that fits, and appends can leave out the others.

    Raises:
        StoreSchemaError: naming each column and its fix.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in columns and name not in to_be_added]
    foreign = not_ours(table.sql, columns, missing)
    if foreign is not None:
        raise StoreSchemaError(foreign)
    problems = []
    for name, types in REQUIRED_COLUMNS.items():
        column = columns.get(name)
        if column is None and name in to_be_added:
            continue
        if column is None:
            problems.append(
                f"column {name} is missing (alter table {table.sql} add column {name} {types[0]})"
            )
        elif column.generated and name in _WRITTEN:
            problems.append(
                f"column {name} is generated, so no append can give it a value (alter table "
                f"{table.sql} alter column {name} drop expression)"
            )
        elif column.type.split("(")[0] not in types:
            problems.append(
                f"column {name} is {column.type}, not {types[0]} (alter table {table.sql} "
                f"alter column {name} type {types[0]} using {name}::{types[0]})"
            )
    position = columns.get("global_position")
    if position is not None and not position.has_default:
        problems.append(
            f"column global_position draws from no sequence (alter table {table.sql} alter column "
            f"global_position add generated by default as identity, then set its sequence to the "
            f"highest position)"
        )
    for column in columns.values():
        if column.not_null and not column.has_default and column.name not in _WRITTEN:
            problems.append(
                f"column {column.name} is not null and has no default, so nothing can be appended "
                f"(give it a default or drop the constraint)"
            )
    if problems:
        raise StoreSchemaError(f"{table.sql} is no event table: {'; '.join(problems)}")


async def check_sequence(connection: AnyConnection, table: Table) -> str:
    """The sequence of the positions, checked: it must hand them out one by one, upwards.

    Raises:
        StoreSchemaError: there is none, or sessions keep numbers for later.
    """
    if table.sequence is None:
        raise StoreSchemaError(
            f"{table.sql}.global_position draws from no sequence of its own: "
            f"alter sequence … owned by {table.sql}.global_position"
        )
    row = await connection.fetchrow(SQL["describe_sequence"], table.sequence)
    if row is None:
        raise StoreSchemaError(f"sequence {table.sequence} is not readable: grant select on it")
    if row["increment"] < 1 or row["cycle"]:
        raise StoreSchemaError(
            f"sequence {table.sequence} does not only count upwards: "
            f"alter sequence {table.sequence} increment by 1 no cycle"
        )
    if row["cache"] != 1:
        # A session that keeps numbers back writes low positions after higher ones are read.
        raise StoreSchemaError(
            f"sessions keep {row['cache']} positions of {table.sequence} each, which makes every "
            f"feed skip events: alter sequence {table.sequence} cache 1, then reconnect all writers"
        )
    return table.sequence


async def missing_indexes(connection: AnyConnection, table: Table) -> tuple[list[Index], list[str]]:
    """The required indexes that are not there, and the names of unusable ones of that shape."""
    rows = await connection.fetch(SQL["describe_indexes"], table.oid)
    present: set[Index] = set()
    broken: list[str] = []
    for row in rows:
        index = _index_of(row)
        if row["usable"]:
            present.add(index)
            present.add(Index(index.columns, unique=False))
        elif index in REQUIRED_INDEXES:
            broken.append(row["name"])
    return [index for index in REQUIRED_INDEXES if index not in present], broken


def _index_of(row: Any) -> Index:
    return Index(tuple(row["columns"]), row["is_unique"])
