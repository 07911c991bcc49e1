"""Whether row-level security may hide rows: then a row that is not found may be there all the same.

Some databases switch it on for every new table. A route that is hidden looks like a tenant that
never moved, and its events would be looked for, and written, in a store that it has left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsource.connections import Executor

# A policy that shows every row hides none, unless a restrictive one stands beside it.
_HIDES = """
select t.name, current_user::text as role
from unnest($1::text[]) as t(name),
lateral (
    select coalesce(bool_or(p.polpermissive and shown = 'true'), false) as shows_all,
           coalesce(bool_or(not p.polpermissive and shown <> 'true'), false) as hides_some
    from pg_policy p, coalesce(pg_get_expr(p.polqual, p.polrelid), '') as shown
    where p.polrelid = to_regclass(t.name) and p.polcmd in ('r', '*')
      and (0 = any (p.polroles)
           or exists (select from unnest(p.polroles) r where r <> 0 and pg_has_role(r, 'usage')))
) as applying
where row_security_active(to_regclass(t.name)) and (not shows_all or hides_some)
"""


async def problem(executor: Executor, table: str) -> str | None:
    """What is wrong and what to do, when rows of the table (SQL text) are hidden from this role."""
    return next(iter(await problems(executor, [table])), None)


async def problems(executor: Executor, tables: Iterable[str]) -> list[str]:
    """The same for several tables, in one round trip."""
    return [
        f"row-level security of {row['name']} hides rows from role {row['role']!r}, so that what is"
        f" not found may be there; create policy eventsource_reads on {row['name']} for select to"
        f" {row['role']} using (true), or alter table {row['name']} disable row level security"
        for row in await executor.fetch(_HIDES, list(tables))
    ]
