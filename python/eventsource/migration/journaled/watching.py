"""What must not have changed about a layout's tables since their guard was made.

Triggers do not fire where they are switched off, in a leaf that is attached with its rows, in a
child that inherits, and when a table is rewritten for another type of a column; a table that is
new in a tenant's own schema has none. All of it leaves traces in the catalog: where they are others
than before, everything is carried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource.catalog.model import GUARD
from eventsource.migration.journaled import whole

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.layouts.declaration import LayoutTable

_SEEN = """
with recursive subject (oid, root) as (
    select to_regclass(name)::oid, to_regclass(name)::oid from unnest($1::text[]) name
    union
    select h.inhrelid, s.root from subject s join pg_inherits h on h.inhparent = s.oid
)
select md5(string_agg(described, ';' order by described)) as seen,
       md5(string_agg(described, ';' order by described) filter (where oid = any ($3::oid[])))
           as seen_of_known,
       array_agg(oid::bigint order by oid) as tables,
       array_agg(oid::bigint order by oid) filter (where is_leaf and relfilenode = oid
                                                     and oid <> all ($3::oid[])) as added
from (
    select s.oid, c.relfilenode, c.relispartition and c.relkind = 'r' as is_leaf,
           concat_ws(' ', s.oid, c.relfilenode, c.relkind, (
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
                 and substr(t.tgname, length($2) + 1) !~ '^[0-9]'), (
               select nullif(coalesce((j.key ->> 'weak')::integer, 0), 0) from {journal} j
               where j.fence_id = {made} and j.table_no = 0 and s.oid = s.root
                 and (j.key ->> 'table')::oid = s.oid)) as described
    from subject s join pg_class c on c.oid = s.oid
) seen
"""


#: In place of a fence: these rows say which transaction made the triggers of a table.
MADE = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the tables are at one moment.

    Attributes:
        text: another one after any of that.
        of_known: the same for those tables and leaves alone that were known.
        tables: the OIDs of all of them.
        added: those of leaves that were not known, as far as nobody has emptied or rewritten them.
    """

    text: str
    of_known: str
    tables: tuple[int, ...]
    added: tuple[int, ...]

    def has_only_grown(self, watched: str | None, known: Sequence[int]) -> bool:
        """Whether leaves have come, and nothing else is another one."""
        return self.of_known == watched and len(known) < len(self.tables)


async def look(table: AnyTable, known: Sequence[int] = ()) -> Seen:
    """Look at all of it, in one statement."""
    assert table.layout is not None
    names = [table.beside(each.name) for each in table.layout.tables]
    query = _SEEN.format(journal=table.beside("eventsource_changes"), made=MADE)
    row: Any = await table.connection.fetchrow(query, names, GUARD, list(known))
    beside = await whole.undeclared(table)
    return Seen(
        " ".join([str(row["seen"]), *beside]), " ".join([str(row["seen_of_known"]), *beside]),
        tuple(row["tables"]), tuple(row["added"] or ()),
    )  # fmt: skip


async def seen(table: AnyTable) -> str:
    """As :meth:`look`, the text alone."""
    return (await look(table)).text


async def made(table: AnyTable, name: str, *, was_weak: bool) -> None:
    """In the transaction that makes the triggers of a table: say that it did.

    Where they had been made before and did not fire for everybody when they were made again, that
    is one of the things that are seen: what was written meanwhile is not in the journal.
    """
    journal = table.beside("eventsource_changes")
    await table.connection.execute(
        f"with before as (delete from {journal} where fence_id = {MADE}"
        " and (key ->> 'table')::oid = $1::text::regclass::oid"
        " returning coalesce((key ->> 'weak')::integer, 0) as weak)"
        f" insert into {journal} (fence_id, table_no, key) select {MADE}, 0, jsonb_build_object("
        "'table', $1::text::regclass::oid::bigint, 'xid', pg_current_xact_id()::text,"
        " 'weak', coalesce((select max(weak) + $2::integer from before), 0))",
        name, int(was_weak),
    )  # fmt: skip


async def unmade(table: AnyTable, names: Sequence[str]) -> None:
    """In the transaction that drops them; tables that are no more have none either."""
    await table.connection.execute(
        f"delete from {table.beside('eventsource_changes')} where fence_id = {MADE}"
        " and ((key ->> 'table')::oid in (select to_regclass(n) from unnest($1::text[]) n)"
        " or not exists (select from pg_class c where c.oid = (key ->> 'table')::oid))",
        list(names),
    )


async def weak(table: AnyTable, only: LayoutTable | None = None) -> list[str]:
    """Tables of the layout, and their leaves, whose guard would not fire for every session."""
    assert table.layout is not None
    names = [table.beside(each.name) for each in ([only] if only else table.layout.tables)]
    rows = await table.connection.fetch(
        "with recursive subject (oid) as (select to_regclass(name)::oid from unnest($1::text[])"
        " name union select h.inhrelid from subject s join pg_inherits h on h.inhparent = s.oid)"
        " select s.oid::regclass::text as name from subject s where"
        " (select count(*) from pg_trigger t where t.tgrelid = s.oid and t.tgenabled = 'A'"
        "  and t.tgname = any ($2::text[])) < cardinality($2::text[]) order by 1",
        names, [f"{GUARD}{kind}" for kind in ("insert", "update", "delete")],
    )  # fmt: skip
    return [row["name"] for row in rows]
