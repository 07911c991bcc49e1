"""What must still be so when the tenant is handed over: looked at in the statement that decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from eventsource.catalog.model import GUARD
from eventsource.identifiers import quote_literal
from eventsource.migration import event_table
from eventsource.migration.event_table import AnyTable
from eventsource.migration.tables.fences import Fence

#: What is wrong, and what to do about it, by the names that the statement below gives.
_SENTENCES = {
    "guard": (
        "the guard of the {side} table {name} is not whole: a trigger of it is gone, or was"
        " enabled otherwise than ALWAYS (`enable trigger all` does that); run"
        " `select {renew}('{name}')` at the source, or abort the migration and start it again"
    ),
    "unlogged": (
        "the {side} table {name} is unlogged since the migration began, so that a crash empties it;"
        " alter table {name} set logged"
    ),
    "inheritance": (
        "the {side} table {name} has children or a parent since the migration began, where its"
        " guard does not fire; take them away: alter table … no inherit"
    ),
    "late-trigger": (
        "the {side} table {name} has a trigger since the migration began that runs after the"
        " guard and may change what it let pass; rename it to a name before {guard!r}"
    ),
    "columns": (
        "the columns of the {side} table {name} are not those that the migration began with, so"
        " that what was copied lacks some; take the change back, or abort the migration and start"
        " it again"
    ),
    "sequence": (
        "the last position of the {side} table {name} cannot be seen: its column draws from no"
        " sequence of its own any more (alter sequence … owned by {name}.global_position), or this"
        " role may not read that (grant select on sequence …)"
    ),
}

#: A text that is another one when a column is added, dropped, renamed or of another type.
_SHAPE = """
(select md5(string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attcollation,
                                 a.attgenerated), ',' order by a.attname))
 from pg_catalog.pg_attribute a
 where a.attrelid = {table} and a.attnum > 0 and not a.attisdropped)
"""

_WRONG = """
array_remove(array[
    case when (select count(*) from pg_catalog.pg_trigger t
               where t.tgrelid = {table} and t.tgname = any ({names}) and t.tgenabled = 'A')
              <> cardinality({names}) then 'guard' end,
    case when exists (select from pg_catalog.pg_class c
                      where c.oid = {table} and c.relpersistence <> 'p') then 'unlogged' end,
    case when exists (
        select from pg_catalog.pg_inherits h join pg_catalog.pg_class c on c.oid = {table}
        where h.inhparent = c.oid or h.inhrelid = c.oid and not c.relispartition)
        then 'inheritance' end,
    case when exists (
        select from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = {table} and not t.tgisinternal and t.tgenabled <> 'D'
          and t.tgtype & 3 = 3 and t.tgtype & 20 <> 0
          and t.tgname > '{guard}write' and not starts_with(p.proname, 'eventsource_'))
        then 'late-trigger' end,
    case when {shape} <> {agreed} then 'columns' end,
    case when (select pg_catalog.has_sequence_privilege(s, 'usage, select')
               from pg_catalog.pg_get_serial_sequence({table}::text, 'global_position') s)
              is not true then 'sequence' end
], null)
"""

# In one statement: whatever it sees was drawn before the sequence is looked at.
_POSITIONS = """
select m.lowest, m.highest, s.drawn
from (select min(global_position) as lowest, max(global_position) as highest
      from {table} where tenant_id = $1) m,
     (select case when has_sequence_privilege($2::text::regclass, 'usage, select')
                  then coalesce(pg_sequence_last_value($2::text::regclass), 0) end as drawn) s
where m.highest is not null
"""


@dataclass(frozen=True, slots=True)
class Positions:
    """Where a tenant's events begin and end, and what their sequence has drawn, if it is seen."""

    table: AnyTable
    sequence: str
    lowest: int
    highest: int
    drawn: int | None

    @property
    def not_drawn(self) -> tuple[str, str] | None:
        """What is wrong with positions above all that was drawn, and its mend; None without any.

        What is appended next would stand before them, and no return could pass them.
        """
        if self.drawn is None or self.highest <= self.drawn:
            return None
        return (
            f"the source holds events of the tenant at positions up to {self.highest}, and"
            f" sequence {self.sequence} has drawn no more than {self.drawn} (a restore, an import,"
            " or a subscription): what is appended next would stand before them",
            f"select setval({quote_literal(self.sequence)}, (select max(global_position) from"
            f" {self.table.name}))",
        )


async def positions(table: AnyTable, tenant_id: UUID) -> Positions | None:
    """Those of the tenant's events; None without any."""
    sequence = await event_table.position_sequence(table)
    found = await table.connection.fetchrow(
        _POSITIONS.format(table=table.name), tenant_id, sequence
    )
    return None if found is None else Positions(table, sequence, **dict(found))


def all_drawn(table: str, tenant: str, drawn: str) -> str:
    """An SQL expression for whether the tenant has no event above what was drawn: one look at an
    index."""
    highest = f"(select max(global_position) from {table} where tenant_id = {tenant})"
    return f"coalesce({highest}, 0) <= {drawn}"


def wrong(table: str, names: str, agreed: str) -> str:
    """An SQL expression for what is wrong with a table, as names; empty when nothing is.

    Args:
        table: an expression of type regclass.
        names: one of type text[]: the triggers that have to be there, ALWAYS.
        agreed: one of type text: the shape that it has to have; null for any.
    """
    shape = _SHAPE.format(table=table)
    return _WRONG.format(table=table, names=names, agreed=agreed, shape=shape, guard=GUARD)


async def shape(table: AnyTable) -> str:
    """The shape of the table's columns as they are now, for :func:`wrong`."""
    expression = _SHAPE.format(table="$1::text::regclass")
    return str(await table.connection.fetchval(f"select {expression}", table.name))


def statement() -> str:
    """Asks for what is wrong with table $1, guarded by triggers $2, of shape $3."""
    return "select " + wrong("$1::text::regclass", "$2::text[]", "$3::text")


def guards_of(fence: Fence) -> list[str]:
    """The names of the triggers that guard a tenant, on the side of its fence."""
    shared = fence.role == "source" or fence.state == "standby"
    between = "" if shared else f"{fence.fence_id}_"
    return [f"{GUARD}{between}{kind}" for kind in ("write", "change", "truncate")]


def explained(table: AnyTable, side: str, names: Sequence[str]) -> list[str]:
    """A sentence for each name."""
    renew = table.beside("eventsource_guard_renew")
    return [
        _SENTENCES[each].format(side=side, name=table.name, renew=renew, guard=GUARD)
        for each in names
    ]
