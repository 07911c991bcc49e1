"""A declaration for a schema that is one tenant's as a whole, written from what its tables are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource.migration.layouts.declaration import LayoutError

if TYPE_CHECKING:
    from eventsource.connections import Executor

# The key is the primary one, else the unique index with the fewest columns that are never null.
_TABLES = """
select c.relname::text as name, pg_total_relation_size(c.oid) as size, (
           select array_agg(a.attname::text order by k.place)
           from (select i.indrelid, i.indkey, i.indnkeyatts from pg_index i
                 where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
                   and i.indpred is null and i.indexprs is null
                   and not exists (
                       select from unnest(i.indkey::int2[]) with ordinality k (num, place)
                       join pg_attribute a on a.attrelid = c.oid and a.attnum = k.num
                       where k.place <= i.indnkeyatts and not a.attnotnull)
                 order by i.indisprimary desc, i.indnkeyatts, i.indexrelid limit 1) best
           cross join lateral unnest(best.indkey::int2[]) with ordinality k (num, place)
           join pg_attribute a on a.attrelid = best.indrelid and a.attnum = k.num
           where k.place <= best.indnkeyatts) as key, array(
           select distinct p.relname::text
           from pg_constraint f join pg_class p on p.oid = f.confrelid
           where f.contype = 'f' and f.conrelid = c.oid and p.relnamespace = c.relnamespace
             and p.oid <> c.oid) as parents
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p') and not c.relispartition
  and not starts_with(c.relname, 'eventsource_')
order by c.relname
"""

_EVENTS = re.compile("event|message|journal", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    size: int
    key: tuple[str, ...]
    parents: frozenset[str]


async def declaration(executor: Executor, schema: str, name: str) -> str:
    """``[layouts.NAME]`` as TOML for all tables of a schema, to be read before it is used.

    Raises:
        LayoutError: there is no table that could travel.
    """
    rows: list[Any] = await executor.fetch(_TABLES, schema)
    tables = [
        _Table(row["name"], row["size"], tuple(row["key"] or ()), frozenset(row["parents"]))
        for row in rows
    ]
    movable = [each for each in tables if each.key]
    if not movable:
        raise LayoutError(
            f"schema {schema!r} has no table with a primary key: nothing could travel"
        )
    return "\n".join([*_head(name, tables), *_body(name, movable)]) + "\n"


def _head(name: str, tables: Iterable[_Table]) -> Iterator[str]:
    yield f"[layouts.{json.dumps(name)}]"
    yield f"title = {json.dumps(f'{name}, a schema for each tenant')}"
    yield 'tenant = "whole"'
    without = [each.name for each in tables if not each.key]
    if without:
        why = json.dumps("it has no primary key: nothing names its rows")
        stays = ", ".join(f"{json.dumps(each)} = {why}" for each in without)
        yield f"stays = {{ {stays} }}"


def _body(name: str, tables: list[_Table]) -> Iterator[str]:
    events = max(tables, key=lambda each: (bool(_EVENTS.search(each.name)), each.size)).name
    for each in _parents_first(tables):
        yield ""
        yield f"[[layouts.{json.dumps(name)}.tables]]"
        yield f"table = {json.dumps(each.name)}"
        if each.name == events:
            yield "events = true"
        yield f"key = [{', '.join(map(json.dumps, each.key))}]"


def _parents_first(tables: list[_Table]) -> Iterator[_Table]:
    left = {each.name: each for each in tables}
    while left:
        free = [each for each in left.values() if not each.parents & left.keys()]
        # Tables that refer to each other in a circle have no right order.
        for each in free or list(left.values()):
            yield each
            del left[each.name]
