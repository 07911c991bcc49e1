"""Everything that a database holds, schema and rows, by plain SQL: equal before and after."""

from __future__ import annotations

from typing import Any

from eventsource.connections import AnyConnection

#: What a migration records about itself: what was asked and done, and the tenant's route.
JOURNAL = ("tenant_migrations", "migration_audit_log", "tenant_routing", "tenant_ways_back")

_OURS = "n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and n.nspname !~ '^pg_t'"

CATALOG = f"""
with relation as (
    select c.*, n.nspname || '.' || c.relname as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where {_OURS}
)
select 'schema ' || nspname || ' ' || nspowner::regrole || coalesce(nspacl::text, '')
from pg_namespace n where {_OURS}
union all
select 'relation ' || name || ' ' || relkind::text || ' ' || relowner::regrole || ' '
       || relpersistence::text || relrowsecurity || relforcerowsecurity
       || coalesce(relacl::text, '') || coalesce(reloptions::text, '')
from relation where relkind <> 'i'
union all
select 'column ' || name || '.' || attnum || ' ' || attname || ' '
       || format_type(atttypid, atttypmod) || attnotnull || attidentity::text
       || attgenerated::text || attcollation::regcollation || coalesce(attacl::text, '')
       || coalesce(pg_get_expr(adbin, adrelid), '')
from relation r join pg_attribute a on a.attrelid = r.oid and attnum > 0 and not attisdropped
left join pg_attrdef d on d.adrelid = attrelid and adnum = attnum where relkind <> 'i'
union all
select 'trigger ' || name || ' ' || tgname || ' ' || tgenabled::text || ' '
       || pg_get_triggerdef(t.oid)
from pg_trigger t join relation r on r.oid = tgrelid where not tgisinternal
union all
select 'index ' || name || ' ' || pg_get_indexdef(r.oid)
       || coalesce((select ' in ' || spcname from pg_tablespace s where s.oid = reltablespace), '')
       || coalesce(' ' || obj_description(r.oid, 'pg_class'), '')
       || coalesce((select ' ' || string_agg(attnum || ':' || attstattarget, ',' order by attnum)
                    from pg_attribute a where attrelid = r.oid and attstattarget >= 0), '')
from relation r join pg_index i on i.indexrelid = r.oid where indisvalid
union all
select 'constraint ' || r.name || ' ' || conname || ' ' || pg_get_constraintdef(k.oid)
       || coalesce(' ' || obj_description(k.oid, 'pg_constraint'), '')
from pg_constraint k join relation r on r.oid = conrelid
union all
select 'policy ' || name || ' ' || polname from pg_policy join relation r on r.oid = polrelid
union all
select 'function ' || p.oid::regprocedure || ' ' || md5(pg_get_functiondef(p.oid))
       || coalesce(proacl::text, '')
from pg_proc p join pg_namespace n on n.oid = pronamespace where {_OURS} and prokind = 'f'
union all
select 'setting ' || setrole::regrole || ' ' || setconfig::text
from pg_db_role_setting where setdatabase = (
    select oid from pg_database where datname = current_database())
order by 1
"""

_TABLES = f"""
select format('%I.%I', n.nspname, c.relname) as name, c.relname as bare
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where {_OURS} and c.relkind = 'r' order by 1
"""

_SEQUENCES = f"""
select format('%I.%I', n.nspname, c.relname) from pg_class c
join pg_namespace n on n.oid = c.relnamespace where {_OURS} and c.relkind = 'S' order by 1
"""


async def fingerprint(connection: AnyConnection, *, journal: bool = True) -> dict[str, Any]:
    """Every object and, per table, every row; ``journal=False`` leaves out what an abort keeps."""
    # Another login would otherwise see less than is there.
    async with connection.transaction():
        await connection.execute("set local row_security = off")
        seen: dict[str, Any] = {}
        for row in await connection.fetch(_TABLES):
            if journal or row["bare"] not in JOURNAL:
                seen[row["name"]] = await connection.fetchval(
                    "select count(*) || ' ' || coalesce(md5(string_agg(t::text, '|'"
                    f" order by t::text)), '') from {row['name']} t"
                )
        seen["catalog"] = [row[0] for row in await connection.fetch(CATALOG)]
        for (name,) in await connection.fetch(_SEQUENCES):
            if not journal and name.rstrip('"').endswith(("_id_seq", "_position_seq")):
                # How far row ids went says nothing about what was left behind, and a sequence of
                # positions never goes back: readers may have taken its value for the head.
                continue
            value = await connection.fetchrow(f"select last_value, is_called from {name}")
            assert value is not None
            seen[f"sequence {name}"] = tuple(value)
        return seen
