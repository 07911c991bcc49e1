"""Which tables are there, and with what columns: asked in one round trip for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsource.connections import Executor

_COLUMNS = """
select given.name, array_agg(a.attname::text) filter (where a.attname is not null) as columns
from unnest($1::text[]) as given(name)
left join pg_attribute a
       on a.attrelid = to_regclass(given.name) and a.attnum > 0 and not a.attisdropped
where to_regclass(given.name) is not null
group by given.name
"""


async def columns_of(executor: Executor, tables: Iterable[str]) -> dict[str, frozenset[str]]:
    """By table (SQL text) that exists: the names of its columns."""
    rows = await executor.fetch(_COLUMNS, list(tables))
    return {row["name"]: frozenset(row["columns"] or ()) for row in rows}
