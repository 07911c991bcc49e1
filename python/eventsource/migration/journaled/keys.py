"""Whether what a layout calls a key names each row, and whether the tenant's column is one name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.catalog.findings import Finding
from eventsource.identifiers import quote_identifier

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.migration.preflight.findings import Findings

_UNIQUE = """
select exists (
    select from pg_index i where i.indrelid = $1::text::regclass and i.indisunique and i.indisvalid
      and i.indimmediate and i.indpred is null and i.indexprs is null
      and (select array_agg(a.attname::text order by a.attname)
           from unnest(i.indkey::int2[]) with ordinality k (num, place)
           join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
           where k.place <= i.indnkeyatts)
          = (select array_agg(name order by name) from unnest($2::text[]) name))
"""

# PostgreSQL 18 knows NOT NULL that holds for new rows alone.
_NULLABLE = """
select a.attname::text as name
from pg_attribute a
where a.attrelid = $1::text::regclass and a.attname = any ($2::text[]) and not a.attisdropped
  and (not a.attnotnull or exists (
      select from pg_constraint k where k.conrelid = a.attrelid and k.contype = 'n'
        and a.attnum = any (k.conkey) and not k.convalidated))
order by 1
"""

_NONDETERMINISTIC = """
select exists (select from pg_attribute a join pg_collation c on c.oid = a.attcollation
               where a.attrelid = $1::text::regclass and a.attname = $2
                 and not c.collisdeterministic)
"""


async def check(table: AnyTable, side: str, each: LayoutTable, findings: Findings) -> None:
    """Look at one table of one side."""
    name = table.beside(each.name)
    if not await table.connection.fetchval(_UNIQUE, name, list(each.key)):
        within = [*each.key, str(each.tenancy.column)]
        hint = ""
        if await table.connection.fetchval(_UNIQUE, name, within):
            hint = (
                f": it has one on ({', '.join(within)}), so these are unique within a tenant only."
                " A layout for that names the sequence of each tenant, as marten-partitioned"
                " does"
            )
        findings.note(
            Finding(
                "key", side,
                f"the {side} table {name} has no unique index on exactly ({', '.join(each.key)}),"
                f" the key of the layout{hint}",
            )
        )  # fmt: skip
    await _check_nulls(table, side, each, findings)
    if each.tenancy.column is not None and await table.connection.fetchval(
        _NONDETERMINISTIC, name, each.tenancy.column
    ):
        findings.note(
            Finding(
                "collation", side,
                f"column {each.tenancy.column} of {name} has a collation that takes different texts"
                " for equal: two tenants may be one there",
            )
        )  # fmt: skip


async def _check_nulls(table: AnyTable, side: str, each: LayoutTable, findings: Findings) -> None:
    """No row is found by a null: neither by its key nor in the order of a scan."""
    name = table.beside(each.name)
    for what, columns in (("key", each.key), ("scan", each.scan or ())):
        for row in await table.connection.fetch(_NULLABLE, name, list(columns)):
            if what == "scan" and row["name"] in each.key:
                continue
            findings.note(
                Finding(
                    "nullable-key", side,
                    f"column {row['name']} of the {what} of the {side} table {name} may be null,"
                    " and by a null no row is found",
                    f"alter table {name} alter column {quote_identifier(row['name'])} set not null,"
                    f" or name another {what}",
                )
            )  # fmt: skip
