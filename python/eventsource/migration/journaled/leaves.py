"""What the partitions of a table have for themselves, and their root does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsource.catalog.findings import Finding, warning
from eventsource.catalog.model import GUARD
from eventsource.identifiers import quote_identifier
from eventsource.migration.journaled.partitions import TREE

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.layouts.declaration import Layout
    from eventsource.migration.preflight.findings import Findings

_UNLOGGED = f"""{TREE}
select format('%I.%I', n.nspname, c.relname) as name
from tree t join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace
where c.relispartition and c.relkind = 'r' and c.relpersistence <> 'p' order by 1
"""

# Of a trigger's type the first bit says FOR EACH ROW, the second BEFORE, and those of 28 INSERT,
# DELETE and UPDATE. One for each statement fires for statements that name its own table.
_FIRED = f"""{TREE}
select format('%I.%I', n.nspname, c.relname) as name, g.tgname::text as trigger,
       g.tgtype & 2 = 0 as is_late
from tree t join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace
join pg_trigger g on g.tgrelid = c.oid
where c.relispartition and c.oid <> to_regclass(t.root) and not g.tgisinternal and g.tgparentid = 0
  and g.tgenabled in ('O', 'A') and g.tgtype & 28 > 0 and g.tgtype & 1 = 1
  and not starts_with(g.tgname, $2)
order by 1, 2
"""

_CHECKS = f"""{TREE}
select format('%I.%I', n.nspname, c.relname) as name, k.conname::text as constraint,
       regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') as definition,
       c.oid = to_regclass(t.root) or k.coninhcount > 0 as is_of_the_root
from tree t join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace
join pg_constraint k on k.conrelid = c.oid and k.contype = 'c'
order by 1, 2
"""


async def fired(target: AnyTable, roots: list[str], findings: Findings, *, fire: bool) -> None:
    """Triggers of the target's partitions that see the carried rows."""
    for row in await target.connection.fetch(_FIRED, roots, GUARD):
        text = (
            f"trigger {row['trigger']!r} of the target's partition {row['name']} would fire for"
            " carried rows, and may change them or write elsewhere"
        )
        if row["is_late"] and fire:
            findings.note(warning("trigger-fires", "target", text))
            continue
        findings.note(
            Finding(
                "trigger-fires", "target", text,
                f"alter table {row['name']} disable trigger {quote_identifier(row['trigger'])}"
                " until the tenant has moved",
            )
        )  # fmt: skip


async def check(
    source: AnyTable, target: AnyTable, layout: Layout, findings: Findings, *, fire: bool
) -> None:
    """Look at the partitions of all tables."""
    names = [source.beside(each.name) for each in layout.tables]
    there = [target.beside(each.name) for each in layout.tables]
    for side, table, roots in (("source", source, names), ("target", target, there)):
        for row in await table.connection.fetch(_UNLOGGED, roots):
            findings.note(
                Finding(
                    "unlogged", side,
                    f"partition {row['name']} of the {side} is not a permanent table",
                    f"alter table {row['name']} set logged",
                )
            )  # fmt: skip
    await fired(target, there, findings, fire=fire)
    here: list[Any] = await source.connection.fetch(_CHECKS, names)
    known = {row["definition"] for row in here}
    for row in await target.connection.fetch(_CHECKS, there):
        if not row["is_of_the_root"] and row["definition"] not in known:
            findings.note(
                Finding(
                    "check-constraint", "target",
                    f"constraint {row['constraint']} ({row['definition']}) of the target's"
                    f" partition {row['name']} is none of the source's, which may hold what it"
                    " refuses",
                    f"alter table {row['name']} drop constraint"
                    f" {quote_identifier(row['constraint'])}",
                )
            )  # fmt: skip
