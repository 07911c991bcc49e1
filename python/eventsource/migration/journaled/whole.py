"""Tables that are one tenant's as a whole, as in a schema for each: what is theirs beside rows.

Positions are kept, so the sequences of the target go on where those of the source have ended. No
lock keeps anybody from making another table, so the list of tables is part of what is watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventsource.identifiers import qualified, quote_identifier
from eventsource.migration.errors import PreflightError
from eventsource.migration.journaled import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.preflight.findings import Findings
    from eventsource.tenant_ids import TenantId

# Partitions are their root's; what stands beside the tables is ours.
_TABLES = """
select c.relname::text as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p', 'f') and not c.relispartition
  and not starts_with(c.relname, 'eventsource_')
order by 1
"""

# Those that columns draw from, and all others of the schema where that is the tenant's.
_SEQUENCES = """
with subject (oid) as (select to_regclass(name)::oid from unnest($1::text[]) name)
select distinct s.relname::text as name
from pg_class s join pg_namespace n on n.oid = s.relnamespace
where s.relkind = 'S' and n.nspname = $2 and not starts_with(s.relname, 'eventsource_')
  and ($3 or exists (
      select from pg_depend d join subject on d.refobjid = subject.oid
      where d.classid = 'pg_class'::regclass and d.objid = s.oid
        and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i'))
    or exists (
      select from pg_attrdef a join subject on a.adrelid = subject.oid
      join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = a.oid
      where d.refclassid = 'pg_class'::regclass and d.refobjid = s.oid))
order by 1
"""

_GIVEN = (
    "select name, pg_sequence_last_value(to_regclass(name)) as last from unnest($1::text[]) name"
)

# Forward only: a repair may come after the tenant's own first appends.
_SET = """
select setval(q.seqrelid, case when q.seqincrement > 0
                               then greatest(given.last, pg_sequence_last_value(q.seqrelid))
                               else least(given.last, pg_sequence_last_value(q.seqrelid)) end)
from unnest($1::text[], $2::bigint[]) as given (name, last)
join pg_sequence q on q.seqrelid = to_regclass(given.name)
"""


async def undeclared(table: AnyTable) -> list[str]:
    """Tables of the schema that the layout does not know, where all of them are the tenant's."""
    layout = table.layout
    assert layout is not None
    if not layout.is_schema:
        return []
    known = {each.name for each in layout.tables} | {name for name, _ in layout.stays}
    rows = await table.connection.fetch(_TABLES, table.address.schema)
    return [row["name"] for row in rows if row["name"] not in known]


async def sequences(table: AnyTable) -> list[str]:
    """The sequences of the tables, and all of the schema where that is the tenant's; unquoted."""
    layout = table.layout
    assert layout is not None
    names = [table.beside(each.name) for each in layout.tables]
    rows: list[Any] = await table.connection.fetch(
        _SEQUENCES, names, table.address.schema, layout.is_schema
    )
    return [row["name"] for row in rows]


async def given(side: str, table: AnyTable) -> dict[str, int | None]:
    """By unquoted name: the last number of each sequence, None before the first.

    Raises:
        PreflightError: the role may not read one.
    """
    names = await sequences(table)
    quoted = [table.beside(name) for name in names]
    if problems := await numbers.not_permitted(side, table, quoted):
        raise PreflightError(problems)
    rows: list[Any] = await table.connection.fetch(_GIVEN, quoted)
    return {name: row["last"] for name, row in zip(names, rows, strict=True)}


async def _bounds(table: AnyTable, names: Iterable[str]) -> dict[str, Any]:
    rows: list[Any] = await table.connection.fetch(
        "select name, seqmin, seqmax, seqincrement from unnest($1::text[], $2::text[]) as"
        " asked (name, quoted) join pg_sequence on seqrelid = to_regclass(quoted)",
        list(names), [table.beside(name) for name in names],
    )  # fmt: skip
    return {row["name"]: row for row in rows}


async def _ending_before(
    source: AnyTable, target: AnyTable, drawn: Mapping[str, int | None]
) -> list[str]:
    """Sequences of the target that cannot go on where the source's are."""
    here, there = await _bounds(source, drawn), await _bounds(target, drawn)
    problems = []
    for name, other in there.items():
        own, last = here[name], drawn[name]
        upwards = own["seqincrement"] > 0
        if (other["seqincrement"] > 0) is not upwards:
            change = f"increment {own['seqincrement']}"
        elif (
            last is not None
            and not other["seqmin"] <= last <= other["seqmax"] - numbers.FEWEST * upwards
        ):
            change = f"as bigint minvalue {own['seqmin']} maxvalue {own['seqmax']}"
        else:
            continue
        problems.append(
            f"the target's sequence {target.beside(name)} cannot go on after"
            f" {last if last is not None else 'the first number'}, where the source's is: alter"
            f" sequence {target.beside(name)} {change}"
        )
    return problems


async def hand_numbers_over(source: AnyTable, target: AnyTable) -> None:
    """Under the fence, or after it: no number of the source is given again at the target.

    Raises:
        PreflightError: the target lacks a sequence, or the role a right to one.
    """
    last = await given("source", source)
    lacking = sorted(last.keys() - (await given("target", target)).keys())
    if lacking:
        raise PreflightError([_lacks(target, name) for name in lacking])
    drawn = {name: number for name, number in last.items() if number is not None}
    await target.connection.fetch(
        _SET, [target.beside(name) for name in drawn], list(drawn.values())
    )


async def examine(
    source: AnyTable, target: AnyTable, tenant_id: TenantId, findings: Findings
) -> None:
    """What would refuse a move, beside what refuses every move of a layout."""
    schema = source.address.schema
    for name in await undeclared(source):
        findings.problems.append(
            f"the layout does not declare table {qualified(schema, name)}, and all tables of the"
            " schema are the tenant's: add it to the tables, or to stays with the reason"
        )
    here, there = await sequences(source), await sequences(target)
    findings.problems += [_lacks(target, name) for name in here if name not in there]
    rights = [
        problem
        for side, table, names in (("source", source, here), ("target", target, there))
        for problem in await numbers.not_permitted(side, table, map(table.beside, names))
    ]
    findings.problems += rights
    if not rights:
        findings.problems += await _ending_before(source, target, await given("source", source))
    for side, table in (("source", source), ("target", target)):
        owner = await table.connection.fetchval(
            f"select tenant_id from {table.fences} where table_name = $1 and tenant_id <> $2"
            " order by fence_id desc limit 1",
            table.address.table, str(tenant_id),
        )  # fmt: skip
        if owner is not None:
            findings.problems.append(
                f"the {side}'s tables in schema {table.address.schema!r} are those of tenant"
                f' {owner!r}, not of {str(tenant_id)!r}: a layout whose tenant is "whole" has one'
            )
    if source.layout is not None and source.layout.is_schema:
        findings.warnings.append(
            f"nobody is kept from making another table in schema {schema!r} while the tenant moves,"
            " which would put the cutover off: revoke create on schema"
            f" {quote_identifier(schema)} from those that may"
        )


def _lacks(target: AnyTable, name: str) -> str:
    return (
        f"the target has no sequence {target.beside(name)}, from which the source draws numbers;"
        " let the library make its tables there"
    )
