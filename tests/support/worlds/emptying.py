"""Databases of a world taken back to where they began: quicker than new tables in them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import asyncpg

from tests.support.databases import let_go
from tests.support.fingerprint import CATALOG

_GUARDS = """
select format('drop trigger %I on %s', t.tgname, t.tgrelid::regclass)
from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'public'::regnamespace and not t.tgisinternal
  and format('%s on %s', t.tgname, t.tgrelid::regclass) <> all ($1::text[])
union all
select format('drop function %s', p.oid::regprocedure)
from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
  and p.oid::regprocedure::text <> all ($2::text[])
"""

_OBJECTS = """
select coalesce(array_agg(format('%s on %s', t.tgname, t.tgrelid::regclass)), '{}'),
       (select coalesce(array_agg(p.oid::regprocedure::text), '{}') from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.prokind = 'f')
from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'public'::regnamespace and not t.tgisinternal
"""

# What the schema public is, apart from its rows. A column that is gone still takes room in rows.
_LOOKS = f"""
select md5(string_agg(line, chr(10) order by line)) from (
    select * from ({CATALOG}) as catalog (line)
    union all
    select concat_ws(' ', 'more', c.relname, c.relnatts, c.relreplident, c.relispartition)
    from pg_class c where c.relnamespace = 'public'::regnamespace
    union all
    select concat_ws(' ', 'sequence', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement,
                     seqmax, seqmin, seqcache, seqcycle) from pg_sequence
    union all
    select concat_ws(' ', 'published', prrelid::regclass) from pg_publication_rel
    union all
    select concat_ws(' ', 'inherits', inhrelid::regclass, inhparent::regclass) from pg_inherits
    union all
    select concat_ws(' ', 'rule', ev_class::regclass, rulename, ev_enabled) from pg_rewrite
    where oid >= 16384
    union all
    select concat_ws(' ', 'type', typname, typtype) from pg_type
    where typnamespace = 'public'::regnamespace
    union all
    select concat_ws(' ', 'extension', extname) from pg_extension
) as found (line)
"""

_FILLED = """
select format('%I.%I', n.nspname, c.relname) from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind = 'r'
  and (pg_relation_size(c.oid) > 0 or c.reltuples >= 0)
"""

# A position sequence begins where it began, whatever has drawn from it. The secret is none.
_REWIND = """
select setval(seqrelid, seqstart, false) from pg_sequence s join pg_class c on c.oid = s.seqrelid
where c.relnamespace = 'public'::regnamespace and pg_sequence_last_value(seqrelid) is not null
  and c.relname <> 'eventsource_fence_secret'
"""


@dataclass(slots=True)
class Emptied:
    """One database of a session's worlds.

    Attributes:
        looks: of the schema when its tables had just been made; None before.
    """

    dsn: str
    looks: str | None = None
    triggers: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)

    async def empty(self) -> bool:
        """Begin again; whether the tables are there, as they were made and without a row."""
        connection = await asyncpg.connect(
            self.dsn, server_settings={"default_transaction_read_only": "off"}
        )
        try:
            await let_go(connection)
            if self.looks is not None and await self._tidied(connection):
                return True
            await connection.execute(
                "drop schema public cascade; create schema public;"
                " grant usage on schema public to public"
            )
            return False
        finally:
            await connection.close()

    async def _tidied(self, connection: asyncpg.Connection) -> bool:
        try:
            for (drop,) in await connection.fetch(_GUARDS, self.triggers, self.functions):
                await connection.execute(drop)
            if await connection.fetchval(_LOOKS) != self.looks:
                return False
            filled = [row[0] for row in await connection.fetch(_FILLED)]
            if filled:
                await connection.execute(f"truncate {', '.join(filled)} cascade")
            await connection.execute(_REWIND)
            await connection.execute("select pg_stat_reset()")
        except asyncpg.PostgresError:
            return False
        return True

    async def remember(self) -> None:
        """How it looks now that everything has just been made."""
        connection = await asyncpg.connect(self.dsn)
        try:
            found = await connection.fetchrow(_OBJECTS)
            assert found is not None
            self.triggers, self.functions = found
            self.looks = await connection.fetchval(_LOOKS)
        finally:
            await connection.close()


async def emptied(databases: list[Emptied]) -> bool:
    """All of them; whether every one has its tables."""
    return all(await asyncio.gather(*(each.empty() for each in databases)))
