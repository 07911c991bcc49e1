"""What must not have changed about a layout's tables since their guard was made.

Triggers do not fire where they are switched off, in a leaf that is attached with its rows, in a
child that inherits, and when a table is rewritten for another type of a column; a table that is
new in a tenant's own schema has none. All of it leaves traces in the catalog: where they are others
than before, everything is carried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.catalog.model import GUARD
from eventsource.migration.journaled import whole

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

_SEEN = """
with recursive subject (oid, root) as (
    select to_regclass(name)::oid, to_regclass(name)::oid from unnest($1::text[]) name
    union
    select h.inhrelid, s.root from subject s join pg_inherits h on h.inhparent = s.oid
)
select md5(string_agg(described, ';' order by described))
from (
    select concat_ws(' ', s.oid, c.relfilenode, c.relkind, (
               select md5(string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod,
                                               a.attcollation, a.attgenerated), ','
                                     order by a.attnum))
               from pg_attribute a where a.attrelid = s.oid and a.attnum > 0
                 and not a.attisdropped), (
               -- Made again for another tenant is as good as before; by anybody else is not.
               select string_agg(concat_ws(' ', t.tgname, t.tgenabled, case when exists (
                          select from {journal} j where j.fence_id = {made} and j.table_no = 0
                            and (j.key ->> 'table')::oid = s.root
                            and (j.key ->> 'xid')::numeric % 4294967296 = t.xmin::text::numeric)
                          then 'ours' else t.xmin::text end), ',' order by t.tgname)
               from pg_trigger t where t.tgrelid = s.oid and starts_with(t.tgname, $2)
                 and substr(t.tgname, length($2) + 1) !~ '^[0-9]')) as described
    from subject s join pg_class c on c.oid = s.oid
) seen
"""


#: In place of a fence: these rows say which transaction made the triggers of a table.
MADE = 0


async def seen(table: AnyTable) -> str:
    """A text that is another one after any of that."""
    assert table.layout is not None
    names = [table.beside(each.name) for each in table.layout.tables]
    query = _SEEN.format(journal=table.beside("eventsource_changes"), made=MADE)
    found = str(await table.connection.fetchval(query, names, GUARD))
    return " ".join([found, *await whole.undeclared(table)])


async def made(table: AnyTable, name: str) -> None:
    """In the transaction that makes the triggers of a table: say that it did."""
    journal = table.beside("eventsource_changes")
    await table.connection.execute(
        f"with before as (delete from {journal} where fence_id = {MADE}"
        " and (key ->> 'table')::oid = $1::text::regclass::oid)"
        f" insert into {journal} (fence_id, table_no, key) select {MADE}, 0, jsonb_build_object("
        "'table', $1::text::regclass::oid::bigint, 'xid', pg_current_xact_id()::text)",
        name,
    )  # fmt: skip


async def unmade(table: AnyTable, name: str) -> None:
    """In the transaction that drops them."""
    await table.connection.execute(
        f"delete from {table.beside('eventsource_changes')} where fence_id = {MADE}"
        " and (key ->> 'table')::oid = $1::text::regclass::oid",
        name,
    )


async def weak(table: AnyTable) -> list[str]:
    """Tables of the layout, and their leaves, whose guard would not fire for every session."""
    assert table.layout is not None
    names = [table.beside(each.name) for each in table.layout.tables]
    rows = await table.connection.fetch(
        "with recursive subject (oid) as (select to_regclass(name)::oid from unnest($1::text[])"
        " name union select h.inhrelid from subject s join pg_inherits h on h.inhparent = s.oid)"
        " select s.oid::regclass::text as name from subject s where"
        " (select count(*) from pg_trigger t where t.tgrelid = s.oid and t.tgenabled = 'A'"
        "  and t.tgname = any ($2::text[])) < cardinality($2::text[]) order by 1",
        names, [f"{GUARD}{kind}" for kind in ("insert", "update", "delete")],
    )  # fmt: skip
    return [row["name"] for row in rows]
