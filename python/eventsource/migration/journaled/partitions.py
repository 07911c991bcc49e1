"""Leaves of partitioned tables: what triggers of the root do not see to, and which rows they take.

A trigger for each row is made for every leaf, also for one that is attached later. One for
TRUNCATE fires only for the table that it was made for, so each leaf, and each table in between,
needs one.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from eventsource.catalog.model import GUARD
from eventsource.identifiers import quote_identifier, quote_literal
from eventsource.migration.connections import timeouts
from eventsource.migration.journaled import bodies

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventsource.connections import Executor
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.statements import Statements
    from eventsource.migration.layouts.declaration import LayoutTable

TRUNCATE = f"{GUARD}truncate"

#: Begins a statement over the tables $1 and all of their partitions.
TREE = """
with recursive tree (oid, root) as (
    select to_regclass(name)::oid, name from unnest($1::text[]) name
    union
    select h.inhrelid, t.root from tree t join pg_inherits h on h.inhparent = t.oid
)
"""

_BELOW = f"""{TREE}
select format('%I.%I', n.nspname, c.relname) as name, c.relkind::text as kind, t.root
from tree t join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace
where c.relispartition and c.oid <> to_regclass(t.root)
order by c.oid
"""

_UNCOVERED = f"""{TREE}
select distinct t.root from tree t join pg_class c on c.oid = t.oid
where c.relispartition and c.relkind in ('r', 'p') and c.oid <> to_regclass(t.root)
  and not exists (select from pg_trigger g where g.tgrelid = c.oid and g.tgenabled = 'A'
                    and g.tgname = $2)
"""

# Sessions that have a leaf for themselves and have not committed: what they do shows too late. Who
# waits for a fence has written a row, and does nothing to the table.
_HELD = f"""{TREE}
select l.relation::regclass::text as name
from pg_locks l join tree t on t.oid = l.relation join pg_class c on c.oid = t.oid
where l.locktype = 'relation' and l.granted and c.relispartition
  and l.database = (select oid from pg_database where datname = current_database())
  and l.mode in ('ShareRowExclusiveLock', 'AccessExclusiveLock')
  and not exists (select from pg_locks w where w.pid = l.pid and not w.granted
                    and w.locktype = 'advisory')
order by 1
"""

_BOUNDS = f"""{TREE}
select c.oid::regclass::text as name, c.relkind::text as kind,
       pg_get_partition_constraintdef(c.oid) as takes, pg_get_expr(c.relpartbound, c.oid) as bound,
       h.inhparent::regclass::text as parent, p.partstrat::text as divided_by, array(
           select a.attname::text from unnest(p.partattrs::int2[]) k (num)
           join pg_attribute a on a.attrelid = c.oid and a.attnum = k.num) as columns
from tree t join pg_class c on c.oid = t.oid left join pg_inherits h on h.inhrelid = c.oid
left join pg_partitioned_table p on p.partrelid = c.oid
order by c.oid
"""

_MODULUS = re.compile(r"modulus (\d+)", re.IGNORECASE)


async def below(connection: Executor, names: Sequence[str], kinds: str = "rp") -> list[str]:
    """Partitions of these tables and theirs in turn (quoted, qualified): leaves, tables between."""
    rows: list[Any] = await connection.fetch(_BELOW, list(names))
    return [row["name"] for row in rows if row["kind"] in kinds]


async def missing(connection: Executor, names: Sequence[str]) -> list[str]:
    """Those of these tables (quoted, qualified) that are not there."""
    rows: list[Any] = await connection.fetch(
        "select name from unnest($1::text[]) name where to_regclass(name) is null", list(names)
    )
    return [row["name"] for row in rows]


async def leaves(table: AnyTable, oids: Iterable[int]) -> list[tuple[str, LayoutTable]]:
    """Of these partitions, those with rows: name (quoted, qualified) and table of the layout."""
    assert table.layout is not None
    names = {table.beside(each.name): each for each in table.layout.tables}
    rows: list[Any] = await table.connection.fetch(
        f"{TREE} select format('%I.%I', n.nspname, c.relname) as name, t.root from tree t"
        " join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace"
        " where c.oid = any ($2::oid[]) and c.relkind = 'r' order by c.oid",
        list(names), list(oids),
    )  # fmt: skip
    return [(row["name"], names[row["root"]]) for row in rows]


async def uncovered(table: AnyTable) -> list[str]:
    """Tables of the layout with a leaf that could be emptied unseen: it has come since."""
    assert table.layout is not None
    names = {table.beside(each.name): each.name for each in table.layout.tables}
    rows: list[Any] = await table.connection.fetch(_UNCOVERED, list(names), TRUNCATE)
    return [names[row["root"]] for row in rows]


async def held(table: AnyTable) -> list[str]:
    """Leaves that another session has for itself at this moment."""
    assert table.layout is not None
    names = [table.beside(each.name) for each in table.layout.tables]
    return [row["name"] for row in await table.connection.fetch(_HELD, names)]


def truncate_body(condition: str, applies: str = "true") -> str:
    """The body of a trigger that refuses to empty a table with such a row of ``subject``.

    ``applies`` is a condition for that, asked each time.
    """
    # The names of the table are put in by the server, so per cent signs of the condition are not.
    query = f"select exists (select from %I.%I subject where {condition.replace('%', '%%')})"
    return bodies.TRUNCATE_FUNCTION.format(query=quote_literal(query), applies=applies)


def triggers(names: Iterable[str], trigger: str, function: str) -> list[str]:
    """Statements that make the trigger for TRUNCATE of each table, whatever role a session has."""
    quoted = quote_identifier(trigger)
    return [
        statement
        for name in names
        for statement in (
            f"create or replace trigger {quoted} before truncate on {name} for each statement"
            f" execute function {function}()",
            f"alter table {name} enable always trigger {quoted}",
        )
    ]


async def drops(connection: Executor, names: Sequence[str], triggers: Sequence[str]) -> list[str]:
    """Statements that drop these triggers of tables, and those of their leaves' own."""
    rows: list[Any] = await connection.fetch(
        f"{TREE} select"
        " format('drop trigger %I on %I.%I', g.tgname, n.nspname, c.relname) as statement"
        " from tree t join pg_class c on c.oid = t.oid"
        " join pg_namespace n on n.oid = c.relnamespace"
        " join pg_trigger g on g.tgrelid = t.oid and g.tgparentid = 0"
        " where g.tgname = any ($2::text[]) order by c.oid, g.tgname",
        list(names), list(triggers),
    )  # fmt: skip
    return [row["statement"] for row in rows]


async def problems_of(source: AnyTable, target: AnyTable, statements: Statements) -> list[str]:
    """Rows of the tenant that no leaf of the target takes, and how to make it take them."""
    found, shape = [], statements.shape
    for each in shape.layout.tables:
        if shape.target.tables[each.name].kind == "p":
            found += await _without_a_place(source, target, statements, each)
    return found


async def _without_a_place(
    source: AnyTable, target: AnyTable, statements: Statements, table: LayoutTable
) -> list[str]:
    name = statements.shape.target.name(table.name)
    nodes: list[Any] = await target.connection.fetch(_BOUNDS, [name])
    for node in nodes:
        if node["divided_by"] == "h" and _share(nodes, node["name"]) < 1:
            return [
                f"the target's table {node['name']} is divided by hash and lacks some of its"
                " partitions, so some rows have no place there: make all of them"
            ]
    leaves = [node for node in nodes if node["kind"] != "p"]
    takes = " or ".join(f"({_without_hash(leaf['takes'] or 'true')})" for leaf in leaves) or "false"
    columns = sorted({column for node in nodes for column in node["columns"]})
    rows: list[Any] = await source.connection.fetch(
        f"select * from {_arriving(statements, table)} mine where ({takes}) is not true limit 1",
        timeout=timeouts.LONG_STATEMENT_SECONDS,
    )
    if not rows:
        return []
    [row] = rows
    values = ", ".join(f"{each} = {row[each]}" for each in columns)
    return [
        f"the target's table {name} has no partition for the tenant's row with {values}: make one"
        f" there, as {row['eventsource_leaf']} is at the source"
    ]


def _arriving(statements: Statements, table: LayoutTable) -> str:
    """The tenant's rows as the target gets them, and the tables that they are in at the source."""
    shape = statements.shape
    mine = shape.rows(table, shape.source).replace("(select *", "(select tableoid, *", 1)
    return (
        f"(select {statements.carried(table)}, subject.tableoid::regclass::text as eventsource_leaf"
        f" from {mine} subject)"
    )


def _share(nodes: list[Any], parent: str) -> Fraction:
    """Which part of all hash values the partitions of a table take."""
    share = Fraction(0)
    for node in nodes:
        if node["parent"] == parent and (found := _MODULUS.search(node["bound"] or "")):
            share += Fraction(1, int(found[1]))
    return share


def _without_hash(condition: str) -> str:
    """A condition of the target without its hash values, which hold for its own tables only."""
    call = "satisfies_hash_partition("
    while (start := condition.find(call)) >= 0:
        end, depth, quoted = start + len(call), 1, False
        while depth:
            each = condition[end]
            quoted ^= each == "'"
            depth += 0 if quoted else (each == "(") - (each == ")")
            end += 1
        condition = f"{condition[:start]}true{condition[end:]}"
    return condition
