"""Whether row-level security may hide rows: then a row that is not found may be there all the same.

Some databases switch it on for every new table. A route that is hidden looks like a tenant that
never moved, and its events would be looked for, and written, in a store that it has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsource.connections import Executor

# A policy that shows every row hides none, unless a restrictive one stands beside it.
_HIDES = """
with applying as (
    select p.polpermissive as permissive, coalesce(pg_get_expr(p.polqual, p.polrelid), '') as shown
    from pg_policy p
    where p.polrelid = to_regclass($1) and p.polcmd in ('r', '*')
      and (0 = any (p.polroles)
           or exists (select from unnest(p.polroles) r where r <> 0 and pg_has_role(r, 'usage')))
)
select current_user::text as role
where row_security_active(to_regclass($1))
  and (not exists (select from applying where permissive and shown = 'true')
       or exists (select from applying where not permissive and shown <> 'true'))
"""


async def problem(executor: Executor, table: str) -> str | None:
    """What is wrong and what to do, when rows of the table (SQL text) are hidden from this role."""
    role = await executor.fetchval(_HIDES, table)
    if role is None:
        return None
    return (
        f"row-level security of {table} hides rows from role {role!r}, so that what is not found"
        f" may be there; create policy eventsource_reads on {table} for select to {role} using"
        f" (true), or alter table {table} disable row level security"
    )
