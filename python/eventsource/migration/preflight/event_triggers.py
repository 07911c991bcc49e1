"""Whether the databases let a migration make and drop what stands beside somebody's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from eventsource.catalog.findings import Finding
from eventsource.schema_changes import tried_out

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

_EVENT_TRIGGERS = """
select string_agg(quote_ident(evtname), ', ' order by evtname) from pg_event_trigger
where evtenabled in ('O', 'A') and evtevent in ('ddl_command_start', 'ddl_command_end', 'sql_drop')
"""

# One of each kind that guards and loads need, on a table that lasts for a moment; nothing of it
# stays.
_TRIED = """
create function {function}() returns trigger language plpgsql as 'begin return null; end';
create sequence {sequence};
create temporary table eventsource_ddl_probe (n integer) on commit drop;
create trigger eventsource_ddl_probe after insert on pg_temp.eventsource_ddl_probe
    for each row execute function {function}();
alter table pg_temp.eventsource_ddl_probe enable always trigger eventsource_ddl_probe;
create index eventsource_ddl_probed on pg_temp.eventsource_ddl_probe (n);
drop index pg_temp.eventsource_ddl_probed;
drop trigger eventsource_ddl_probe on pg_temp.eventsource_ddl_probe;
drop sequence {sequence};
drop function {function}();
"""


async def check(table: AnyTable, side: str) -> list[Finding]:
    """Tried out where event triggers may forbid it: an abort would need it as well."""
    names = await table.connection.fetchval(_EVENT_TRIGGERS)
    if names is None:
        return []
    tried = _TRIED.format(
        function=table.beside("eventsource_ddl_probe"), sequence=table.beside("eventsource_probed")
    )
    try:
        async with tried_out(table.connection) as connection:
            await connection.execute(tried)
    except asyncpg.InsufficientPrivilegeError:
        # What the role lacks is named elsewhere, with the grant.
        return []
    except asyncpg.PostgresError as error:
        return [
            Finding(
                "event-trigger", side,
                f"event triggers of the {side} ({names}) do not let a migration make its"
                f" triggers and functions, nor drop them: {error}",
                "alter event trigger … disable, until the tenant has moved",
            )
        ]  # fmt: skip
    return []
