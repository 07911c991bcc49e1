"""Whether row-level security may hide rows: then a row that is not found may be there all the same.

Some databases switch it on for every new table. A route that is hidden looks like a tenant that
never moved, and its events would be looked for, and written, in a store that it has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsource.connections import Executor

# A policy that shows every row hides none, unless a restrictive one stands beside it. $2 are the
# commands, as the catalog has them; without one no policy is enough.
_HIDES = """
with applying as (
    select t.name, p.polcmd::text as command, p.polpermissive as permits,
           coalesce(pg_get_expr(p.polqual, p.polrelid), '') as shown,
           coalesce(pg_get_expr(p.polwithcheck, p.polrelid), pg_get_expr(p.polqual, p.polrelid), '')
               as checked
    from unnest($1::text[]) as t(name) join pg_policy p on p.polrelid = to_regclass(t.name)
    where 0 = any (p.polroles)
       or exists (select from unnest(p.polroles) r where r <> 0 and pg_has_role(r, 'usage'))
)
select t.name, current_user::text as role,
       quote_ident(current_user) as grantee
from unnest($1::text[]) as t(name)
where row_security_active(to_regclass(t.name)) and ($2::text[] = '{}' or exists (
    select from unnest($2::text[]) as wanted(command),
    lateral (
        select coalesce(bool_or(permits and lets), false) as shows_all,
               coalesce(bool_or(not permits and not lets), false) as hides_some
        from applying a, lateral (
            select (wanted.command = 'a' or shown = 'true')
                and (wanted.command in ('r', 'd') or checked = 'true')
        ) as l(lets)
        where a.name = t.name and a.command in (wanted.command, '*')
    ) as found
    where not shows_all or hides_some))
"""

#: What a role does that only reads, and one that migrates.
READS, WRITES = ("r",), ("r", "a", "w", "d")


async def problem(executor: Executor, table: str) -> str | None:
    """What is wrong and what to do, when rows of the table (SQL text) are hidden from this role."""
    return next(iter(await problems(executor, [table])), None)


async def problems(
    executor: Executor, tables: Iterable[str], commands: Sequence[str] = READS
) -> list[str]:
    """The same for several tables, in one round trip.

    Args:
        commands: what the role has to be let by policies; without one it has to do without any, as
            guards do, which are never made from what a policy shows.
    """
    return [
        f"row-level security of {row['name']} hides rows from role {row['role']!r}, so that what is"
        f" not found may be there; {_remedy(row['name'], row['grantee'], commands)}"
        for row in await executor.fetch(_HIDES, list(tables), list(commands))
    ]


def _remedy(table: str, role: str, commands: Sequence[str]) -> str:
    off = f"alter table {table} disable row level security"
    if not commands:
        return f"connect as a role with BYPASSRLS, or {off}"
    policy = f"create policy eventsource_reads on {table} for select to {role} using (true)"
    if commands != READS:
        policy = f"create policy eventsource_writes on {table} to {role} using (true)"
    return f"{policy}, or {off}"
